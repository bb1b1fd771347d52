"""How far annotators agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha (names; alpha also ranks)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

Label = str | None
"""None where an annotator did not label the item."""

Scale = Literal["nominal", "ordinal"]
"""Whether labels are names, or numbers whose order counts."""


def cohen_kappa(one: Sequence[str], other: Sequence[str]) -> float:
    """Agreement of two annotators: (observed - expected) / (1 - expected), expected from each one's own habits.

    Source: Cohen 1960. 1 is full agreement, 0 what chance gives; nan where chance alone agrees fully.
    """
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
    first, second = Counter(one), Counter(other)
    expected = sum(first[label] * second[label] for label in first) / len(one) ** 2
    return _beyond(observed, expected)


def fleiss_kappa(items: Sequence[Sequence[str]]) -> float:
    """Agreement of as many annotators on each item, not always the same ones (Fleiss 1971).

    `items` holds the labels that each item got, equally many each. Errors: ValueError where they are not.
    """
    raters = len(items[0])
    if raters < 2 or any(len(each) != raters for each in items):
        raise ValueError("raters")
    counted = [Counter(each) for each in items]
    agreed = [sum(n * (n - 1) for n in counts.values()) / (raters * (raters - 1)) for counts in counted]
    total = sum(counted, Counter())
    expected = sum((n / (raters * len(items))) ** 2 for n in total.values())
    return _beyond(sum(agreed) / len(items), expected)


def krippendorff_alpha(items: Sequence[Sequence[Label]], scale: Scale = "nominal") -> float:
    """Agreement of any number of annotators with gaps: 1 - observed / expected disagreement (Krippendorff 2011).

    `items` holds the labels that each item got, None for gaps; items with fewer than two labels say nothing. On the
    ordinal scale labels are numbers, and two are the further apart the more answers lie between them.
    """
    paired = [Counter(label for label in each if label is not None) for each in items]
    paired = [counts for counts in paired if counts.total() > 1]
    values = sum(paired, Counter())
    n = values.total()
    if n < 2:
        return float("nan")
    apart = _ordinal(values) if scale == "ordinal" else _nominal
    observed = sum(_disagreement(counts, apart) / (counts.total() - 1) for counts in paired) / n
    expected = _disagreement(values, apart) / (n * (n - 1))
    return 1 - observed / expected if expected else float("nan")


Apart = Callable[[str, str], float]
"""The squared difference of two labels."""


def _nominal(one: str, other: str) -> float:
    return float(one != other)


def _ordinal(values: Counter[str]) -> Apart:
    """Answers from one rank to the other, those at the ends counted half."""
    ranks: dict[str, float] = {}
    below = 0
    for label in sorted(values, key=float):
        ranks[label] = below + values[label] / 2
        below += values[label]
    return lambda one, other: (ranks[one] - ranks[other]) ** 2


def _disagreement(counts: Counter[str], apart: Apart) -> float:
    """Sum of the squared differences over all ordered pairs."""
    return sum(counts[one] * counts[other] * apart(one, other) for one in counts for other in counts)


def _beyond(observed: float, expected: float) -> float:
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")
