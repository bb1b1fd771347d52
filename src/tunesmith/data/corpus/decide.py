"""The decision in the middle of the pass: which rows stay, from the marks of all parts.

Numbers of rows here count the rows that cleaning left, over all parts in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tunesmith.data.corpus.part import Marks, read_rows
from tunesmith.data.minhash import NO_SHINGLES, Bands, Signatures, band_keys
from tunesmith.data.near import Pairs, Rows, candidates, jaccard, leaders, likely
from tunesmith.data.shingles import shingle

_PAIRS_AT_ONCE = 1 << 12

EXACT, NEAR = "exact_duplicate_of_row", "near_duplicate_of_row"

Run = Callable[[Callable[[Rows], NDArray[np.float64]], Iterable[Rows]], Iterable[NDArray[np.float64]]]
"""Maps a function over blocks of pairs, in several threads perhaps."""


@dataclass(frozen=True)
class Decision:
    """For each row the one that stays in its place, or itself, and whether it says exactly the same. [N], [N]"""

    partner: Rows
    exact: NDArray[np.bool_]


def decide(folders: Sequence[Path], marks: Sequence[Marks], exact: bool, threshold: float | None, run: Run) -> Decision:
    """Equal rows become the first of them; of near ones the longest stays, of equally long ones the first."""
    sizes = np.concatenate([each.sizes for each in marks])
    keys = np.concatenate([each.keys for each in marks])
    same = _first_of(keys, np.arange(len(sizes))) if exact or threshold is not None else np.arange(len(sizes))
    if threshold is None:
        return Decision(same, same != np.arange(len(sizes)))
    starts = np.cumsum([0, *(len(each.sizes) for each in marks)])
    found = _Rows(folders, starts, [each.signatures for each in marks])
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    open_rows = np.flatnonzero(same == np.arange(len(sizes)))
    partner = _near(found, open_rows, keys[open_rows, 1], rank, threshold, run)
    # What equals a row that went goes to the row that stands for that one.
    return Decision(partner[same], same != np.arange(len(sizes)))


def _first_of(keys: NDArray[np.uint64], rank: Rows) -> Rows:
    """The row of least rank among those with the same keys [N, k]; itself where there is no other. [N]"""
    columns = {f"key_{place}": keys[:, place] for place in range(keys.shape[1])}
    table = pl.DataFrame({**columns, "rank": rank, "row": np.arange(len(rank))})
    return np.array(table.select(pl.col("row").sort_by("rank").first().over(*columns))["row"])


class _Rows:
    """Signatures and texts of rows by their number, wherever their part is."""

    def __init__(self, folders: Sequence[Path], starts: Rows, parts: Sequence[Signatures]) -> None:
        self._folders, self._starts, self._parts = folders, starts, parts

    def signatures(self, rows: Rows) -> Signatures:
        """The signatures of rows in ascending order. [n, K]"""
        return np.concatenate([self._parts[part][places] for part, places in self._by_part(rows)])

    def texts(self, rows: Rows) -> pl.Series:
        """The texts of rows in ascending order."""
        return pl.concat(read_rows(self._folders[part], places)["text"] for part, places in self._by_part(rows))

    def _by_part(self, rows: Rows) -> list[tuple[int, Rows]]:
        ends = np.searchsorted(rows, self._starts)
        return [
            (part, rows[first:last] - self._starts[part])
            for part, (first, last) in enumerate(pairwise(ends.tolist()))
            if last > first
        ]


def _near(found: _Rows, rows: Rows, folded: NDArray[np.uint64], rank: Rows, threshold: float, run: Run) -> Rows:
    """The row that stands for each of all rows, after looking at some of them for near ones."""
    marks = found.signatures(rows)
    usable = marks[:, 0] != NO_SHINGLES
    alike = _first_of(np.stack([folded, marks[:, 0]], axis=1), rank[rows])  # the same but for form
    alike[~usable] = np.flatnonzero(~usable)
    usable &= alike == np.arange(len(rows))
    left, right = likely(marks, *candidates(band_keys(marks, Bands.for_threshold(threshold)), usable), threshold)

    def measured(block: Rows) -> NDArray[np.float64]:
        both, places = np.unique(np.concatenate([left[block], right[block]]), return_inverse=True)
        return jaccard(shingle(found.texts(rows[both])), places[: len(block)], places[len(block) :])

    places = np.arange(len(left))
    blocks = [places[first : first + _PAIRS_AT_ONCE] for first in range(0, len(left), _PAIRS_AT_ONCE)]
    similarity = np.concatenate([np.empty(0), *run(measured, blocks)])
    pairs = Pairs(left, right, similarity).where(similarity >= threshold)
    partner = np.arange(len(rank))
    partner[rows] = rows[leaders(pairs, rank[rows])[alike]]
    return partner
