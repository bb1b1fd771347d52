"""Several people's answers become one, by majority; what they are even on is decided by nobody."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

from tunesmith.data.annotations.items import Answer
from tunesmith.data.defects import RowDefect

_Value = TypeVar("_Value", bound=Hashable)


def decided(answers: Sequence[Answer]) -> tuple[Answer, int]:
    """The answer that stands, and how many said something else.

    One class, an order of fields: what most said. Several classes, places: each that more than half named. A rating:
    the median. Raises RowDefect: not_annotated; annotators_tied where two are equally frequent, exactly half named a
    class or a place, or the median falls between two ratings.
    """
    if not answers:
        raise RowDefect("not_annotated")
    answer = _decide(answers)
    return answer, sum(each.value != answer.value for each in answers)


def _decide(answers: Sequence[Answer]) -> Answer:
    kind = next((each.kind for each in answers if each.value), answers[0].kind)
    if kind == "spans":
        return Answer(kind, spans=tuple(sorted(_by_more_than_half([each.spans for each in answers]))))
    if kind == "rating":
        return _median(answers)
    if kind == "classes" and any(len(each.names) != 1 for each in answers):
        return Answer(kind, tuple(_by_more_than_half([each.names for each in answers])))
    ranked = Counter(each.names for each in answers).most_common(2)
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        raise RowDefect("annotators_tied")
    return Answer(kind, ranked[0][0])


def _by_more_than_half(chosen: Sequence[Sequence[_Value]]) -> list[_Value]:
    counts = Counter(value for each in chosen for value in dict.fromkeys(each))
    if any(2 * count == len(chosen) for count in counts.values()):
        raise RowDefect("annotators_tied")
    return [value for value, count in counts.items() if 2 * count > len(chosen)]


def _median(answers: Sequence[Answer]) -> Answer:
    ordered = sorted((each for each in answers if each.names), key=lambda each: float(each.names[0]))
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    if low.names != high.names:
        raise RowDefect("annotators_tied")
    return low
