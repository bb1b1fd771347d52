"""How far the people who answered agree, question by question."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from tunesmith.data.annotations.items import Answer, AnswerKind, Item, Question, questions_of
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import OUTSIDE, word_places
from tunesmith.data.labels.agreement import Scale, cohen_kappa, fleiss_kappa, krippendorff_alpha

Verdict = Literal["reliable", "tentative", "unreliable", "unknown"]
RELIABLE, TENTATIVE = 0.8, 0.667
"""Alpha from which data can be relied on, and from which tentative conclusions can be drawn (Krippendorff 2004,
"Reliability in Content Analysis: Some Common Misconceptions and Recommendations")."""

_Unit = Mapping[str, str]
"""What each annotator said of one thing: of an item, or of a word where places are marked."""


@dataclass(frozen=True)
class Pair:
    """Two annotators: what both answered, the share on which they agree, and Cohen's kappa."""

    one: str
    other: str
    units: int
    agreed: float
    kappa: float


@dataclass(frozen=True)
class Agreement:
    """The figures of one question. What cannot be reckoned is nan.

    `items` are those with two answers or more, `units` what is compared in them (words, where places are marked),
    `agreed` the share of pairs of answers that are the same, `fleiss` is known where all units have as many answers,
    `f1` (of places alone) is the mean over annotators' pairs of the F1 of exactly equal places.
    """

    question: str
    kind: AnswerKind
    annotators: int
    items: int
    units: int
    agreed: float
    pairs: tuple[Pair, ...]
    fleiss: float
    alpha: float
    f1: float

    @property
    def scale(self) -> Scale:
        """Ratings are ranks, everything else names."""
        return "ordinal" if self.kind == "rating" else "nominal"

    @property
    def verdict(self) -> Verdict:
        """What alpha allows."""
        if math.isnan(self.alpha):
            return "unknown"
        return "reliable" if self.alpha >= RELIABLE else "tentative" if self.alpha >= TENTATIVE else "unreliable"


def agreements(items: Sequence[Item]) -> list[Agreement]:
    """The figures of every question that people answered, in the order of the file."""
    found = (Question(name, kind) for name, kind in questions_of(items).items())
    return [_agreement(items, each) for each in found if any(each.name in item.votes for item in items)]


def _agreement(items: Sequence[Item], question: Question) -> Agreement:
    said = [(item, item.said(question.name, question.kind)) for item in items]
    said = [(item, answers) for item, answers in said if len(answers) > 1]
    units = [unit for item, answers in said for unit in _units(item, answers, question.kind)]
    annotators = sorted({name for item in items for name in item.said(question.name, question.kind)})
    pairs = tuple(pair for one, other in combinations(annotators, 2) if (pair := _pair(units, one, other)) is not None)
    same = sum(one == other for unit in units for one, other in combinations(unit.values(), 2))
    compared = sum(math.comb(len(unit), 2) for unit in units)
    return Agreement(
        question.name,
        question.kind,
        len(annotators),
        len(said),
        len(units),
        same / compared if compared else math.nan,
        pairs,
        fleiss_kappa([list(unit.values()) for unit in units]) if len({len(unit) for unit in units}) == 1 else math.nan,
        krippendorff_alpha(
            [list(unit.values()) for unit in units], "ordinal" if question.kind == "rating" else "nominal"
        ),
        _f1(answers for _, answers in said) if question.kind == "spans" else math.nan,
    )


def _units(item: Item, answers: Mapping[str, Answer], kind: AnswerKind) -> Iterable[_Unit]:
    if kind != "spans":
        return [
            {
                name: " + ".join(map(str, answer.value))
                for name, answer in answers.items()
                if kind != "rating" or answer.names
            }
        ]
    try:
        _, text = item.text()
    except RowDefect:
        return []
    return [
        {name: _label_at(answer, first, end) for name, answer in answers.items()} for first, end in word_places(text)
    ]


def _label_at(answer: Answer, first: int, end: int) -> str:
    return next((each.label for each in answer.spans if each.start < end and each.end > first), OUTSIDE)


def _pair(units: Sequence[_Unit], one: str, other: str) -> Pair | None:
    both = [(unit[one], unit[other]) for unit in units if one in unit and other in unit]
    if not both:
        return None
    agreed = sum(first == second for first, second in both) / len(both)
    kappa = cohen_kappa([first for first, _ in both], [second for _, second in both])
    return Pair(one, other, len(both), agreed, kappa)


def _f1(items: Iterable[Mapping[str, Answer]]) -> float:
    """Mean F1 over pairs of annotators: 2 x equal places / all places of both.

    As places that nobody marks cannot be counted, it stands for kappa (Hripcsak and Rothschild 2005).
    """
    equal: dict[tuple[str, str], int] = {}
    total: dict[tuple[str, str], int] = {}
    for answers in items:
        for one, other in combinations(sorted(answers), 2):
            first, second = set(answers[one].spans), set(answers[other].spans)
            equal[one, other] = equal.get((one, other), 0) + len(first & second)
            total[one, other] = total.get((one, other), 0) + len(first) + len(second)
    scores = [2 * equal[pair] / total[pair] for pair in total if total[pair]]
    return sum(scores) / len(scores) if scores else math.nan
