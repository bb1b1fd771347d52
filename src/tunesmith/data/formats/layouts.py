"""Rows of each layout to one `Record`: chat and text here, preferences and likes in `pairs.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.core.types import Box, Media, Message, RowKind
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.turns import (
    TurnKeys,
    check_answer,
    check_prompt,
    from_text,
    read_content,
    read_tools,
    read_turns,
    turns_or_text,
)

QUERIES = ("query", "question", "ask", "prompt", "instruction", "input", "problem", "user", "问题", "提问")
ANSWERS = ("response", "answer", "output", "completion", "solution", "assistant", "target", "答案", "回答", "回复")


@dataclass(frozen=True)
class Record:
    """What a row says, in canonical form.

    `cut` counts trailing turns left out because nobody answers them, `outvoted` annotators who said something else.
    """

    kind: RowKind
    messages: tuple[Message, ...] = ()
    tools: str = ""
    text: str = ""
    chosen: tuple[Message, ...] = ()
    rejected: tuple[Message, ...] = ()
    label: bool | None = None
    tokens: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    cut: int = 0
    media: Media | None = None
    boxes: tuple[Box, ...] = ()
    outvoted: int = 0


Row = Mapping[str, object]
Converter = Callable[[Row, TurnKeys], Record]


def first_of(row: Row, names: Sequence[str]) -> str | None:
    """The first of the names that the row has."""
    return next((name for name in names if name in row), None)


def system_turn(row: Row) -> tuple[Message, ...]:
    """The row's system prompt as a turn; none when the column is missing or empty."""
    stated = row.get("system", row.get("system_prompt"))
    if stated is None or stated == "":
        return ()
    return (Message("system", read_content(stated)),)


def history_turns(row: Row) -> tuple[Message, ...]:
    """Earlier turns kept as pairs of question and answer. Raises RowDefect."""
    pairs = from_text(row.get("history"))
    if pairs is None or pairs == "":
        return ()
    if isinstance(pairs, str) or not isinstance(pairs, Sequence):
        raise RowDefect("bad_history")
    turns: list[Message] = []
    for pair in pairs:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise RowDefect("bad_history")
        turns += [Message("user", read_content(pair[0])), Message("assistant", read_content(pair[1]))]
    return tuple(turns)


def with_system(row: Row, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns behind the row's system prompt, unless they bring their own."""
    return turns if turns[:1] and turns[0].role == "system" else system_turn(row) + turns


def instruction_prompt(row: Row) -> tuple[Message, ...]:
    """Alpaca's prompt: system, history, then the instruction with the input on the next line."""
    instruction = _text_or_blank(row.get("instruction"))
    extra = _text_or_blank(row.get("input"))
    content = f"{instruction}\n{extra}" if instruction and extra else instruction or extra
    return (*system_turn(row), *history_turns(row), Message("user", content))


def _text_or_blank(value: object) -> str:
    return "" if value is None else read_content(value)


def chat_record(messages: tuple[Message, ...], tools: str = "") -> Record:
    """A chat row, checked; trailing turns that no assistant answers are cut and counted. Raises RowDefect."""
    last = max((place for place, turn in enumerate(messages) if turn.role == "assistant"), default=-1)
    if last < 0:
        raise RowDefect("no_assistant")
    kept = messages[: last + 1]
    check_prompt(kept)
    check_answer(kept)
    return Record("chat", kept, tools, cut=len(messages) - len(kept))


def read_alpaca(row: Row, _keys: TurnKeys) -> Record:
    """instruction, input, output, system, history."""
    answer = Message("assistant", read_content(_needed(row, "output")))
    _needed(row, "instruction")
    return chat_record((*instruction_prompt(row), answer), read_tools(row.get("tools")))


def read_sharegpt(row: Row, keys: TurnKeys) -> Record:
    """conversations of from and value, or swift's conversation of human and assistant pairs."""
    name = first_of(row, ("conversations", "conversation", "messages"))
    if name is None:
        raise RowDefect("missing_columns")
    return chat_record(with_system(row, read_turns(row[name], keys)), read_tools(row.get("tools")))


def read_messages(row: Row, keys: TurnKeys) -> Record:
    """OpenAI's messages of role and content."""
    turns = read_turns(_needed(row, "messages"), keys)
    tools = row.get("tools") or row.get("functions")
    return chat_record(with_system(row, turns), read_tools(tools))


def read_prompt_completion(row: Row, keys: TurnKeys) -> Record:
    """prompt and completion, each a text or a list of turns."""
    prompt = prompt_turns(row, _needed(row, "prompt"), keys)
    answer = answer_turns(_needed(row, "completion"), keys)
    return chat_record((*prompt, *answer), read_tools(row.get("tools")))


def prompt_turns(row: Row, value: object, keys: TurnKeys) -> tuple[Message, ...]:
    """A prompt that is a text (behind system and history) or a list of turns."""
    value = turns_or_text(value)
    if isinstance(value, str):
        return (*system_turn(row), *history_turns(row), Message("user", value))
    return with_system(row, read_turns(value, keys))


def answer_turns(value: object, keys: TurnKeys) -> tuple[Message, ...]:
    """An answer that is a text, a turn or a list of turns."""
    value = turns_or_text(value)
    return (Message("assistant", value),) if isinstance(value, str) else read_turns(value, keys)


def read_query_response(row: Row, _keys: TurnKeys) -> Record:
    """A question and an answer under one of their usual names."""
    query, answer = first_of(row, QUERIES), first_of(row, ANSWERS)
    if query is None or answer is None:
        raise RowDefect("missing_columns")
    asked = read_content(row[query])
    turns = (*system_turn(row), *history_turns(row), Message("user", asked))
    return chat_record((*turns, Message("assistant", read_content(row[answer]))), read_tools(row.get("tools")))


def read_text(row: Row, _keys: TurnKeys) -> Record:
    """Plain text."""
    text = _needed(row, "text" if "text" in row else "content")
    if not isinstance(text, str):
        raise RowDefect("content_not_text")
    if not text.strip():
        raise RowDefect("empty_text")
    return Record("text", text=text)


def _needed(row: Row, name: str) -> object:
    if name not in row:
        raise RowDefect("missing_columns")
    return row[name]


CHAT_READERS: Mapping[str, Converter] = {
    "alpaca": read_alpaca,
    "sharegpt": read_sharegpt,
    "messages": read_messages,
    "prompt_completion": read_prompt_completion,
    "query_response": read_query_response,
    "text": read_text,
}
