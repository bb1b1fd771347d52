"""Sequence-level distillation: a teacher answers the training prompts, and its answers are what is learned
(Kim and Rush 2016, 1606.07947).

Every answer is kept in a file as soon as it is there, so that whatever breaks off asks nothing twice. A row that got
no answer, or one that was cut, goes, and the ledger says why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import append_durably
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message
from tunesmith.data.defects import Reason
from tunesmith.data.table import from_examples, to_examples
from tunesmith.tasks.chat import question_and_answer


@dataclass(frozen=True)
class Asked:
    """What a teacher is asked: the turns before a row's last answer."""

    messages: tuple[Message, ...]
    tools: str


@dataclass(frozen=True)
class Said:
    """What it said; `finished` says that it came to its own end."""

    text: str
    finished: bool


class AnsweringTeacher(Protocol):
    """Somebody who answers prompts."""

    identity: str
    """All that its answers depend on besides the prompt."""

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said | None]]:
        """The place of a prompt and its answer, None where there is none, in whatever order they come."""


def taught(
    frame: pl.DataFrame,
    teacher: AnsweringTeacher,
    file: Path,
    ledger: Ledger,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> pl.DataFrame:
    """The rows with the teacher's answers in place of their own; those that it could not answer are dropped.

    Args:
        file: where answers are kept, a JSON object a line.
        seen: called with the number of answers that are there, and of all.

    Errors: those of the teacher and of `append_durably`.
    """
    examples = to_examples(frame)
    asked = {example.row: _asked(example) for example in examples}
    keys = {row: answer_key(teacher.identity, each) for row, each in asked.items()}
    known = read_answers(file)
    missing = {keys[row]: each for row, each in asked.items() if keys[row] not in known}
    listed = list(missing)
    done = len(keys) - sum(key in missing for key in keys.values())
    for place, said in teacher.answers(list(missing.values())):
        if said is not None:
            known[listed[place]] = said
            append_durably(file, json.dumps({"key": listed[place], **asdict(said)}, ensure_ascii=False) + "\n")
        done += 1
        seen(done, len(keys))
    kept: list[Example] = []
    for example in examples:
        said = known.get(keys[example.row])
        reason = _refused(said)
        if reason is not None:
            ledger.decide([example.row], "dropped", reason)
        elif said is not None:
            kept.append(_answered(example, said.text))
    return from_examples(kept)


def read_answers(file: Path) -> dict[str, Said]:
    """The answers of a file by their key; a line that a crash cut is left out."""
    found: dict[str, Said] = {}
    for line in file.read_bytes().split(b"\n") if file.exists() else ():
        try:
            values = json.loads(line)
            found[str(values["key"])] = Said(str(values["text"]), bool(values["finished"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _asked(example: Example) -> Asked:
    messages, _ = question_and_answer(example)
    return Asked(messages, example.tools)


def answer_key(identity: str, asked: Asked) -> str:
    """What an answer is kept under: a hash of who was asked and what."""
    text = json.dumps([identity, [asdict(each) for each in asked.messages], asked.tools], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _refused(said: Said | None) -> Reason | None:
    """Why nothing can be learned from an answer; None where something can."""
    if said is None:
        return "teacher_gave_no_answer"
    if not said.text.strip():
        return "teacher_answer_empty"
    return None if said.finished else "teacher_answer_cut"


def _answered(example: Example, text: str) -> Example:
    """The row up to its last answer, which is now the teacher's."""
    messages, _ = question_and_answer(example)
    answer = example.messages[len(messages)]
    return replace(example, messages=(*messages, replace(answer, content=text, tool_calls=())))


def openai_messages(messages: Sequence[Message]) -> list[dict[str, object]]:
    """Turns as OpenAI's chat completions have them."""
    found: list[dict[str, object]] = []
    for each in messages:
        turn: dict[str, object] = {"role": each.role, "content": each.content}
        if each.tool_calls:
            turn["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in each.tool_calls
            ]
        if each.name:
            turn["name"] = each.name
        if each.tool_call_id:
            turn["tool_call_id"] = each.tool_call_id
        found.append(turn)
    return found


def tools_of(text: str) -> list[Mapping[str, object]]:
    """The tools of a row; none where the text is empty. Errors: core.broken_json."""
    try:
        tools = json.loads(text) if text else []
    except ValueError as error:
        raise TunesmithError("core.broken_json", path="tools", reason=str(error)) from error
    return tools if isinstance(tools, list) else [tools]
