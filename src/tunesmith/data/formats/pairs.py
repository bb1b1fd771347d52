"""Preference rows (two answers to one prompt) and KTO rows (one answer, liked or not)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from tunesmith.core.types import Message
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.layouts import (
    ANSWERS,
    QUERIES,
    Converter,
    Record,
    Row,
    answer_turns,
    first_of,
    instruction_prompt,
    prompt_turns,
    with_system,
)
from tunesmith.data.formats.turns import (
    TurnKeys,
    check_answer,
    check_prompt,
    from_text,
    read_tools,
    read_turns,
    turns_or_text,
)

_SPEAKER = re.compile(r"\n\n(Human|Assistant): ?")
_TRUE = frozenset({"true", "1", "yes", "liked"})
_FALSE = frozenset({"false", "0", "no", "disliked"})


def read_preference(row: Row, keys: TurnKeys) -> Record:
    """A prompt with a chosen and a rejected answer, in the forms of TRL, LLaMA-Factory, swift and OpenAI.

    Raises RowDefect.
    """
    tools = row.get("tools")
    if "preferred_output" in row and "non_preferred_output" in row:
        asked = from_text(row.get("input"))
        if isinstance(asked, Mapping):
            tools = asked.get("tools", tools)
            asked = asked.get("messages")
        prompt = prompt_turns(row, asked, keys)
        chosen = answer_turns(row["preferred_output"], keys)
        rejected = answer_turns(row["non_preferred_output"], keys)
    elif "rejected_response" in row or "rejected_messages" in row:
        prompt, chosen, rejected = _against_messages(row, keys)
    elif "chosen" in row and "rejected" in row:
        prompt, chosen, rejected = _chosen_rejected(row, keys)
    else:
        raise RowDefect("missing_columns")
    chosen, rejected = _behind(prompt, chosen), _behind(prompt, rejected)
    if prompt and prompt[-1].role == "assistant":
        raise RowDefect("role_order")
    check_prompt(prompt)
    for answer in (chosen, rejected):
        check_answer(answer)
        check_prompt((*prompt, *answer))
    if chosen == rejected:
        raise RowDefect("same_answers")
    return Record("preference", prompt, read_tools(tools), chosen=chosen, rejected=rejected)


Three = tuple[tuple[Message, ...], tuple[Message, ...], tuple[Message, ...]]


def _against_messages(row: Row, keys: TurnKeys) -> Three:
    """swift: the conversation ends with the chosen answer, the rejected one stands beside it."""
    if "messages" not in row:
        raise RowDefect("missing_columns")
    turns = with_system(row, read_turns(row["messages"], keys))
    if turns[-1].role != "assistant":
        raise RowDefect("no_assistant")
    start = max((place for place, turn in enumerate(turns) if turn.role in ("user", "tool")), default=-1) + 1
    other = row.get("rejected_response")
    if other is None:
        other = row.get("rejected_messages")
    if isinstance(other, Sequence) and not isinstance(other, str) and all(isinstance(each, str) for each in other):
        if len(other) != 1:
            raise RowDefect("bad_columns")
        other = other[0]
    return turns[:start], turns[start:], answer_turns(other, keys)


def _chosen_rejected(row: Row, keys: TurnKeys) -> Three:
    liked, other = turns_or_text(row["chosen"]), turns_or_text(row["rejected"])
    asked = first_of(row, ("conversations", "messages", *QUERIES))
    if asked == "instruction" or (asked == "input" and "instruction" in row):
        prompt = instruction_prompt(row)
    elif asked is not None and row[asked] is not None:
        prompt = prompt_turns(row, row[asked], keys)
    elif isinstance(liked, str) and isinstance(other, str):
        return _implicit(_spoken(liked), _spoken(other))
    else:
        return _implicit(with_system(row, read_turns(liked, keys)), with_system(row, read_turns(other, keys)))
    return prompt, answer_turns(liked, keys), answer_turns(other, keys)


def _implicit(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Three:
    """The prompt is what both begin with, up to the last turn that is not the assistant's."""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and chosen[shared - 1].role == "assistant":
        shared -= 1
    if not shared:
        raise RowDefect("empty_prompt")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _spoken(text: str) -> tuple[Message, ...]:
    """Turns of a text in which every turn begins with "\\n\\nHuman:" or "\\n\\nAssistant:"."""
    pieces = _SPEAKER.split(text)
    if len(pieces) < 3 or pieces[0].strip():
        raise RowDefect("empty_prompt")
    return tuple(
        Message("user" if speaker == "Human" else "assistant", words.strip())
        for speaker, words in zip(pieces[1::2], pieces[2::2], strict=True)
    )


def _behind(prompt: tuple[Message, ...], answer: tuple[Message, ...]) -> tuple[Message, ...]:
    """The answer without the prompt, which some files repeat in front of it."""
    for start in (prompt, tuple(turn for turn in prompt if turn.role != "system")):
        if start and len(answer) > len(start) and answer[: len(start)] == start:
            return answer[len(start) :]
    return answer


def read_kto(row: Row, keys: TurnKeys) -> Record:
    """An answer with a label: TRL's prompt, completion, label; kto_tag; messages with label. Raises RowDefect."""
    stated = first_of(row, ("label", "kto_tag"))
    if stated is None:
        raise RowDefect("missing_columns")
    label = read_label(row[stated])
    listed = first_of(row, ("messages", "conversations", "conversation"))
    if listed is not None:
        messages = with_system(row, read_turns(row[listed], keys))
    elif "instruction" in row and "output" in row:
        messages = (*instruction_prompt(row), *answer_turns(row["output"], keys))
    else:
        query, answer = first_of(row, QUERIES), first_of(row, ANSWERS)
        if query is None or answer is None:
            raise RowDefect("missing_columns")
        prompt = prompt_turns(row, row[query], keys)
        messages = (*prompt, *_behind(prompt, answer_turns(row[answer], keys)))
    check_prompt(messages)
    check_answer(messages)
    return Record("kto", messages, read_tools(row.get("tools")), label=label)


def read_label(value: object) -> bool:
    """true and false, 1 and 0, or their words. Raises RowDefect."""
    if isinstance(value, bool):
        return value
    word = str(int(value)) if isinstance(value, int | float) and value in (0, 1) else str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise RowDefect("bad_label")


PAIR_READERS: Mapping[str, Converter] = {"preference": read_preference, "kto": read_kto}
