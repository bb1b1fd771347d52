"""How sure a figure is: intervals for shares and for paired gains.

Sources: E. B. Wilson, Probable Inference, JASA 22 (1927), 209-212 (the score interval of a share);
B. Efron, Bootstrap Methods, Annals of Statistics 7 (1979), 1-26 (the percentile interval of a paired mean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_RESAMPLES = 2000
_DRAWS_AT_ONCE = 2_000_000
"""Indices drawn together, so that a large test split does not need much memory."""


@dataclass(frozen=True)
class Interval:
    """A figure with the range that holds its true value with 95 % confidence; all in the figure's own unit."""

    value: float
    low: float
    high: float


def two_sided_z(confidence: float = CONFIDENCE) -> float:
    """Standard normal quantile of a two-sided interval, 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(share: float, rows: int, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval of a share (0..1) seen over `rows` independent rows.

    Rows may score between 0 and 1 (a tie counts 1/2): the variance of such a score with mean p is at most
    p (1 - p), so the interval is then never too narrow. No rows at all leave everything open: 0..1.
    """
    if rows <= 0:
        return Interval(share, 0.0, 1.0)
    z = two_sided_z(confidence)
    weight = 1 + z * z / rows
    centre = (share + z * z / (2 * rows)) / weight
    half = z / weight * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    # at 0 and 1 rounding would leave the seen share just outside its own interval
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def paired_gain(new: Sequence[float], old: Sequence[float], seed: int = 0) -> Interval:
    """Mean of new minus old over the same rows, with the percentile interval of a paired bootstrap.

    Both sequences hold one score a row, in the same order; a length that differs is our mistake: ValueError.
    """
    if len(new) != len(old):
        raise ValueError(f"{len(new)} scores against {len(old)}")
    difference_N = np.asarray(new, dtype=np.float64) - np.asarray(old, dtype=np.float64)
    return _bootstrap(lambda rows: difference_N[rows].mean(axis=-1), len(new), seed)


Counts = tuple[float, float, float]


def paired_f1_gain(new: Sequence[Counts], old: Sequence[Counts], seed: int = 0) -> Interval:
    """F1 of the new answers minus F1 of the old over the same rows, with the interval of a paired bootstrap.

    Both sequences hold the counts of every row: right, answered and wanted ones. F1 is of their sums.
    """
    if len(new) != len(old):
        raise ValueError(f"{len(new)} rows against {len(old)}")
    new_N3, old_N3 = (np.asarray(each, dtype=np.float64).reshape(-1, 3) for each in (new, old))

    def gain(rows: Rows) -> Values:
        sums = [counts[rows].sum(axis=-2) for counts in (new_N3, old_N3)]
        first, second = (2 * each[..., 0] / np.maximum(each[..., 1] + each[..., 2], 1e-12) for each in sums)
        found: Values = first - second
        return found

    return _bootstrap(gain, len(new), seed)


Rows = NDArray[np.int64]
Values = NDArray[np.float64]


def _bootstrap(figure: Callable[[Rows], Values], rows: int, seed: int) -> Interval:
    """A figure of rows, and the percentile interval over rows drawn with replacement; `figure` takes [..., N]."""
    if not rows:
        return Interval(0.0, -1.0, 1.0)
    generator = np.random.default_rng(seed)
    at_once = max(1, min(_RESAMPLES, _DRAWS_AT_ONCE // rows))
    found: list[float] = []
    while len(found) < _RESAMPLES:
        index_RN = generator.integers(0, rows, size=(min(at_once, _RESAMPLES - len(found)), rows))
        found.extend(figure(index_RN).tolist())
    low, high = np.quantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Interval(float(figure(np.arange(rows))), low, high)
