"""How far annotators agree beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha (all for nominal labels)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

Label = str | None
"""None where an annotator did not label the item."""


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


def krippendorff_alpha(items: Sequence[Sequence[Label]]) -> float:
    """Agreement of any number of annotators with gaps: 1 - observed / expected disagreement (Krippendorff 2011).

    `items` holds the labels that each item got, None for gaps; items with fewer than two labels say nothing.
    """
    paired = [Counter(label for label in each if label is not None) for each in items]
    paired = [counts for counts in paired if counts.total() > 1]
    values = sum(paired, Counter())
    n = values.total()
    if n < 2:
        return float("nan")
    observed = sum(_unequal_pairs(counts) / (counts.total() - 1) for counts in paired) / n
    expected = _unequal_pairs(values) / (n * (n - 1))
    return 1 - observed / expected if expected else float("nan")


def _unequal_pairs(counts: Counter[str]) -> int:
    return counts.total() ** 2 - sum(n * n for n in counts.values())


def _beyond(observed: float, expected: float) -> float:
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")
