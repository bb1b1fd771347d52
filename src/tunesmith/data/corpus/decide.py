"""The decision in the middle of the pass: which rows stay, from the marks of all parts.

Numbers of rows here count the rows that cleaning left, over all parts in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tunesmith.data.corpus.executors import Executor
from tunesmith.data.corpus.part import Marks, read_rows
from tunesmith.data.minhash import BINS, NO_SHINGLES, Bands, band_keys
from tunesmith.data.near import Pairs, Rows, candidates, jaccard, leaders, likely
from tunesmith.data.shingles import shingle

_PAIRS_AT_ONCE = 1 << 12

EXACT, NEAR = "exact_duplicate_of_row", "near_duplicate_of_row"


@dataclass(frozen=True)
class Decision:
    """For each row the one that stays in its place, or itself, and whether it says exactly the same. [N], [N]"""

    partner: Rows
    exact: NDArray[np.bool_]

    def of_part(self, first: int, rows: int, numbers: Rows) -> PartDecision:
        """What it says of the rows of one part. `numbers` are those among all rows read. [N]"""
        own = slice(first, first + rows)
        partner = self.partner[own]
        return PartDecision(partner == np.arange(own.start, own.stop), self.exact[own], numbers[partner])


@dataclass(frozen=True)
class PartDecision:
    """Of the rows that cleaning left of a part: which stay, which say exactly what another one does, and the number of
    the one that stays among all rows read. [n], [n], [n]
    """

    stays: NDArray[np.bool_]
    exact: NDArray[np.bool_]
    partner: Rows


def decide(
    folders: Sequence[Path], marks: Sequence[Marks], exact: bool, threshold: float | None, executor: Executor
) -> Decision:
    """Equal rows become the first of them; of near ones the longest stays, of equally long ones the first."""
    sizes = np.concatenate([each.sizes for each in marks])
    keys = np.concatenate([each.keys for each in marks])
    same = _first_of(keys, np.arange(len(sizes))) if exact or threshold is not None else np.arange(len(sizes))
    if threshold is None:
        return Decision(same, same != np.arange(len(sizes)))
    starts = np.cumsum([0, *(len(each.sizes) for each in marks)])
    found = _Rows(tuple(folders), starts)
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    open_rows = np.flatnonzero(same == np.arange(len(sizes)))
    partner = _near(found, marks, open_rows, keys[open_rows, 1], rank, threshold, executor)
    # What equals a row that went goes to the row that stands for that one.
    return Decision(partner[same], same != np.arange(len(sizes)))


def _first_of(keys: NDArray[np.uint64], rank: Rows) -> Rows:
    """The row of least rank among those with the same keys [N, k]; itself where there is no other. [N]"""
    columns = {f"key_{place}": keys[:, place] for place in range(keys.shape[1])}
    table = pl.DataFrame({**columns, "rank": rank, "row": np.arange(len(rank))})
    return np.array(table.select(pl.col("row").sort_by("rank").first().over(*columns))["row"])


@dataclass(frozen=True)
class _Rows:
    """Rows by their number, wherever their part is: how many came before each part, and its folder."""

    folders: tuple[Path, ...]
    starts: Rows

    def texts(self, rows: Rows) -> pl.Series:
        """The texts of rows in ascending order."""
        return pl.concat(read_rows(self.folders[part], places)["text"] for part, places in self.by_part(rows))

    def by_part(self, rows: Rows) -> list[tuple[int, Rows]]:
        """Parts with the places in them of rows in ascending order."""
        ends = np.searchsorted(rows, self.starts)
        return [
            (part, rows[first:last] - self.starts[part])
            for part, (first, last) in enumerate(pairwise(ends.tolist()))
            if last > first
        ]


def _near(
    found: _Rows,
    marks: Sequence[Marks],
    rows: Rows,
    folded: NDArray[np.uint64],
    rank: Rows,
    threshold: float,
    executor: Executor,
) -> Rows:
    """The row that stands for each of all rows, after looking at some of them for near ones."""
    bands, by_part = Bands.for_threshold(threshold), found.by_part(rows)
    # Part by part: all signatures side by side would be read, copied, and read again.
    keys = np.concatenate([band_keys(marks[part].signatures[places], bands) for part, places in by_part])
    first_bins = np.concatenate([marks[part].signatures[places, 0] for part, places in by_part])
    usable = first_bins != NO_SHINGLES
    alike = _first_of(np.stack([folded, first_bins], axis=1), rank[rows])  # the same but for form
    alike[~usable] = np.flatnonzero(~usable)
    usable &= alike == np.arange(len(rows))
    left, right = _likely(found, marks, rows, candidates(keys, usable), threshold)
    measured = executor.map(partial(_similarity, found), _blocks(rows[left], rows[right]))
    similarity = np.concatenate([np.empty(0), *measured])
    pairs = Pairs(left, right, similarity).where(similarity >= threshold)
    partner = np.arange(len(rank))
    partner[rows] = rows[leaders(pairs, rank[rows])[alike]]
    return partner


def _likely(
    found: _Rows, marks: Sequence[Marks], rows: Rows, pairs: tuple[Rows, Rows], threshold: float
) -> tuple[Rows, Rows]:
    """The pairs of places in `rows` that their signatures do not rule out. [P], [P]"""
    asked, places = np.unique(np.concatenate(pairs), return_inverse=True)
    of_parts = [marks[part].signatures[at] for part, at in found.by_part(rows[asked])]
    of_asked = np.concatenate([np.empty((0, BINS), np.uint32), *of_parts])
    left, right = likely(of_asked, places[: len(pairs[0])], places[len(pairs[0]) :], threshold)
    return asked[left], asked[right]


def _blocks(left: Rows, right: Rows) -> Iterator[tuple[Rows, Rows]]:
    for first in range(0, len(left), _PAIRS_AT_ONCE):
        block = slice(first, first + _PAIRS_AT_ONCE)
        yield left[block], right[block]


def _similarity(found: _Rows, pairs: tuple[Rows, Rows]) -> NDArray[np.float64]:
    """The Jaccard similarity of pairs of rows, given by their numbers, from their texts. [P]"""
    left, right = pairs
    both, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    return jaccard(shingle(found.texts(both)), places[: len(left)], places[len(left) :])
