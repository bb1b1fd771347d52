"""Items to rows: the question that is learned, the answer that most people gave, and the text it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import RowKind
from tunesmith.data.annotations.argilla import is_record, read_record
from tunesmith.data.annotations.items import Answer, AnswerKind, Item, Question, questions_of
from tunesmith.data.annotations.label_studio import is_task, read_task
from tunesmith.data.annotations.merge import decided
from tunesmith.data.annotations.talks import asked_of, is_about_liking, liked, taught
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import read_token_class
from tunesmith.data.formats.layouts import Record, Row
from tunesmith.data.formats.pairs import read_preference
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.formats.turns import TurnKeys

Tool = Literal["label_studio", "argilla"]
TOOLS: tuple[Tool, ...] = get_args(Tool)
READ: Mapping[Tool, Callable[[Row], Item]] = {"label_studio": read_task, "argilla": read_record}
_LEARNED: Mapping[RowKind, tuple[AnswerKind, ...]] = {
    "text_class": ("classes", "rating"),
    "token_class": ("spans",),
    "preference": ("preferred",),
    "chat": ("text",),
    "kto": ("classes", "rating"),
}
"""Which answers become rows of which kind; a rating is the class of its number, words are the answer to learn."""
KINDS = tuple(_LEARNED)


def tool_of(row: Row) -> Tool | None:
    """The tool that a row comes from."""
    return "label_studio" if is_task(row) else "argilla" if is_record(row) else None


def items_of(rows: Iterable[RawRow], tool: Tool) -> Iterator[Item]:
    """Every row that can be read as an item."""
    for row in rows:
        if not isinstance(row, Unread):
            try:
                yield READ[tool](row)
            except RowDefect:
                continue


def question_of(items: Iterable[Item], wanted: RowKind, stated: str | None, path: Path) -> Question:
    """The question that rows of a kind learn from.

    Errors: data.no_question where none has answers of this kind, data.unknown_question where the stated one has not,
    data.several_questions where the recipe has to choose.
    """
    known = list(items)
    kinds = questions_of(known)
    fitting = [name for name, kind in kinds.items() if kind in _LEARNED[wanted]]
    if wanted == "kto":
        fitting = [name for name in fitting if is_about_liking(known, name)]
    if wanted == "chat" and stated is not None and kinds.get(stated) == "classes":
        fitting.append(stated)  # short words look like labels
        kinds[stated] = "text"
    facts = {"path": str(path), "kind": wanted, "questions": ", ".join(sorted(kinds)) or "-"}
    if not fitting:
        raise TunesmithError("data.no_question", **facts)
    if stated is not None and stated not in fitting:
        raise TunesmithError("data.unknown_question", question=stated, **facts)
    if stated is None and len(fitting) > 1:
        raise TunesmithError("data.several_questions", **{**facts, "questions": ", ".join(sorted(fitting))})
    name = stated or fitting[0]
    return Question(name, kinds[name])


def record_of(item: Item, question: Question, wanted: RowKind, keys: TurnKeys) -> Record:
    """The row that an item gives. Raises RowDefect: those of `decided` and of the reader of the kind."""
    answer, outvoted = decided(list(item.said(question.name, question.kind).values()))
    if wanted == "preference":
        return replace(_preference(item, answer, keys), outvoted=outvoted)
    if wanted == "chat":
        return replace(taught(item, answer, keys), outvoted=outvoted)
    if wanted == "kto":
        return replace(liked(item, answer, keys), outvoted=outvoted)
    _, text = item.text()
    if wanted == "token_class":
        entities = [{"start": each.start, "end": each.end, "label": each.label} for each in answer.spans]
        return replace(read_token_class({"text": text, "entities": entities}, keys), outvoted=outvoted)
    if not text.strip():
        raise RowDefect("empty_text")
    return Record("text_class", text=text, labels=answer.names, outvoted=outvoted)


def _preference(item: Item, answer: Answer, keys: TurnKeys) -> Record:
    """The best field before the last one, and what was asked."""
    if not set(answer.names) <= set(item.fields):
        raise RowDefect("missing_columns")
    best, worst = (item.fields[name] for name in (answer.names[0], answer.names[-1]))
    return read_preference({**asked_of(item, answer.names), "chosen": best, "rejected": worst}, keys)
