"""One item and what several people said of it: the form between Label Studio, Argilla and the rows of the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import TEXTS
from tunesmith.data.formats.layouts import ANSWERS, first_of

AnswerKind = Literal["classes", "rating", "spans", "preferred", "text"]
"""Classes of a text, a number, places with a label, fields in order of preference, or words of one's own."""

NAMED_FIELDS = ("text", "prompt", "answer", "system", "left", "right")
"""Fields that a recipe's `columns` may point at others, such as {text: data.review}."""

_PAIRS = (("left", "right"), ("_a", "_b"), ("_A", "_B"), ("a", "b"), ("A", "B"), ("1", "2"), ("0", "1"))
"""How names of two fields end that are held against each other."""


@dataclass(frozen=True, order=True)
class Span:
    """text[start:end] has a label."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Answer:
    """What one person, or a model, said to one question.

    `names` are the chosen classes, the number of a rating as text, the names of fields, the best first, or what
    somebody wrote: one text, several where the tool was told to take several.
    """

    kind: AnswerKind
    names: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def value(self) -> tuple[str, ...] | tuple[Span, ...]:
        """What two answers are compared by: the order of classes and places does not count, that of fields does."""
        if self.spans:
            return tuple(sorted(self.spans))
        return self.names if self.kind in ("preferred", "text") else tuple(sorted(self.names))


@dataclass(frozen=True)
class Suggestion:
    """What a model proposed to the people who answer."""

    answer: Answer
    agent: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Item:
    """What people were shown (`fields`) and their answers: question to annotator to answer.

    `annotators` are all who finished the item, also those who left a question open. Their names are as the tool has
    them, which are numbers of accounts.
    """

    id: str
    fields: Mapping[str, object]
    votes: Mapping[str, Mapping[str, Answer]]
    suggestions: Mapping[str, Suggestion] = field(default_factory=dict)
    annotators: tuple[str, ...] = ()

    def said(self, question: str, kind: AnswerKind) -> dict[str, Answer]:
        """Every annotator's answer. Who finished an item without marking any place has said that there is none."""
        votes = {name: as_kind(each, kind) for name, each in self.votes.get(question, {}).items()}
        found = {name: each for name, each in votes.items() if each.kind == kind or not each.value}
        unmarked = self.annotators if kind == "spans" else ()
        return {name: Answer(kind) for name in unmarked} | found

    def text(self) -> tuple[str, str]:
        """Name and content of the field that classes and places are about. Raises RowDefect."""
        texts = [name for name, value in self.fields.items() if isinstance(value, str)]
        usual = first_of(self.fields, TEXTS)
        name = usual if usual in texts else texts[0] if len(texts) == 1 else None
        if name is None:
            raise RowDefect("missing_columns")
        return name, str(self.fields[name])

    def about(self) -> str:
        """The field that an answer as a whole is about: the text, the answer that was judged, the conversation.

        Raises RowDefect: missing_columns.
        """
        judged = first_of(self.fields, ANSWERS)
        if judged is not None:
            return judged
        return next(iter(self.fields)) if len(self.fields) == 1 else self.text()[0]


@dataclass(frozen=True)
class Question:
    """A question by its name, and the kind of its answers."""

    name: str
    kind: AnswerKind


def pair_of(fields: Iterable[str]) -> tuple[str, str] | None:
    """The two fields that are held against each other, told by their names: answer_a and answer_b, text1 and text2."""
    names = list(fields)
    for first, second in _PAIRS:
        for name in names:
            other = name[: len(name) - len(first)] + second
            if name.endswith(first) and other in names:
                return name, other
    return None


def number_of(value: object) -> float:
    """A finite number. Raises RowDefect: bad_annotation for anything else."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        pass
    raise RowDefect("bad_annotation")


def questions_of(items: Iterable[Item]) -> dict[str, AnswerKind]:
    """Every question that anybody, or a model, answered, and the kind of its answers.

    An answer that chooses nothing tells no kind, unless all answers are such. A question that one person answered
    with words of their own was none of classes for the others.
    """
    found: dict[str, AnswerKind] = {}
    silent: dict[str, AnswerKind] = {}
    for question, answer in (each for item in items for each in _answers(item)):
        known = found if answer.value else silent
        if known.setdefault(question, answer.kind) == "classes" and answer.kind == "text":
            known[question] = answer.kind
    return {**silent, **found}


def as_kind(answer: Answer, kind: AnswerKind) -> Answer:
    """One class as the words that it was where a tool tells both in the same form; any other answer as it is."""
    return replace(answer, kind=kind) if (answer.kind, kind, len(answer.names)) == ("classes", "text", 1) else answer


def of_one_kind(items: Sequence[Item]) -> list[Item]:
    """The items with every answer of the kind that its question has."""
    kinds = questions_of(items)
    return [
        replace(
            item,
            votes={
                question: {name: as_kind(answer, kinds[question]) for name, answer in votes.items()}
                for question, votes in item.votes.items()
            },
            suggestions={
                question: replace(each, answer=as_kind(each.answer, kinds[question]))
                for question, each in item.suggestions.items()
            },
        )
        for item in items
    ]


def _answers(item: Item) -> Iterator[tuple[str, Answer]]:
    for question, votes in item.votes.items():
        yield from ((question, answer) for answer in votes.values())
    yield from ((question, each.answer) for question, each in item.suggestions.items())
