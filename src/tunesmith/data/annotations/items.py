"""One item and what several people said of it: the form between Label Studio, Argilla and the rows of the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import TEXTS
from tunesmith.data.formats.layouts import first_of

AnswerKind = Literal["classes", "rating", "spans", "preferred"]
"""Classes of a text, a number, places with a label, or fields in order of preference."""

NAMED_FIELDS = ("text", "prompt", "system", "left", "right")
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

    `names` are the chosen classes, the number of a rating as text, or the names of fields, the best first.
    """

    kind: AnswerKind
    names: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def value(self) -> tuple[str, ...] | tuple[Span, ...]:
        """What two answers are compared by: the order of classes and places does not count, that of fields does."""
        if self.spans:
            return tuple(sorted(self.spans))
        return self.names if self.kind == "preferred" else tuple(sorted(self.names))


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
        votes = self.votes.get(question, {}).items()
        found = {name: each for name, each in votes if each.kind == kind or not each.value}
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

    An answer that chooses nothing tells no kind, unless all answers are such.
    """
    found: dict[str, AnswerKind] = {}
    silent: dict[str, AnswerKind] = {}
    for question, answer in (each for item in items for each in _answers(item)):
        (found if answer.value else silent).setdefault(question, answer.kind)
    return {**silent, **found}


def _answers(item: Item) -> Iterator[tuple[str, Answer]]:
    for question, votes in item.votes.items():
        yield from ((question, answer) for answer in votes.values())
    yield from ((question, each.answer) for question, each in item.suggestions.items())
