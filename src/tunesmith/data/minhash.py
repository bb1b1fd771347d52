"""Signatures by which near duplicates meet: one hash of every shingle, its least value in each of BINS bins.

One-permutation hashing (Li, Owen and Zhang 2012): where k hash functions cost k steps a shingle, this costs one. Bins
that a short row leaves empty take the value of another bin, drawn by the bin's number alone (Shrivastava 2017), so that
two rows agree in a bin with the probability of their Jaccard similarity. Bands of bins are what candidates share.

    N rows   S shingles   K bins   B bands
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tunesmith.data.shingles import Hashes, Shingled, mixed

BINS = 128
RECALL = 0.99
"""Chance that two rows exactly as similar as the threshold become candidates."""

Signatures = NDArray[np.uint32]
NO_SHINGLES = np.uint32(0xFFFFFFFF)
"""What stands in every bin of a row without shingles."""

_BIN_BITS = 7
_ROW_BITS = 20
_ROW_SHIFT = np.uint64(64 - _ROW_BITS)
_BIN_SHIFT = np.uint64(64 - _ROW_BITS - _BIN_BITS)
_VALUE = np.uint64(0xFFFFFFFF)
_ROWS_AT_ONCE = 1 << 10
_SHINGLES_AT_ONCE = 1 << 16
"""They then stay in the processor's cache while they are sorted."""
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Bands:
    """`count` bands of `rows` bins each."""

    count: int
    rows: int

    @classmethod
    def for_threshold(cls, threshold: float) -> Bands:
        """The longest bands (fewest needless candidates) that still find pairs at the threshold with RECALL.

        Two rows of similarity j share a band of r bins with probability j^r, one of b bands with 1 - (1 - j^r)^b
        (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).
        """
        fitting = [r for r in range(1, BINS + 1) if 1 - (1 - threshold**r) ** (BINS // r) >= RECALL]
        rows = max(fitting, default=1)
        return cls(BINS // rows, rows)


def signatures(shingled: Shingled) -> Signatures:
    """Signatures of rows [N, K]. A row without shingles has nothing but the highest value."""
    found = np.full((len(shingled.offsets) - 1, BINS), NO_SHINGLES)
    part = shingled.offsets[1:] // _SHINGLES_AT_ONCE
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(part)) + 1, [len(found)]])
    for first, last in pairwise(firsts.tolist()):
        for start in range(first, last, 1 << _ROW_BITS):
            rows = slice(start, min(last, start + (1 << _ROW_BITS)))
            _least(shingled, rows, found[rows])
    _fill(found)
    return found


def _least(shingled: Shingled, rows: slice, found: Signatures) -> None:
    """Put the least value of every bin of some rows into `found`: the first behind each change of row or bin.

    Sorting whole numbers is faster here than any way of keeping the least of each.
    """
    offsets = shingled.offsets[rows.start : rows.stop + 1]
    local = np.repeat(np.arange(len(found), dtype=np.uint64), np.diff(offsets))
    keys = (local << _ROW_SHIFT) | (shingled.hashes[offsets[0] : offsets[-1]] >> np.uint64(_ROW_BITS))
    keys.sort()
    bins = keys >> _BIN_SHIFT
    first = np.flatnonzero(np.append(True, bins[1:] != bins[:-1])) if len(bins) else np.empty(0, np.int64)
    found.reshape(-1)[bins[first].astype(np.int64)] = (keys[first] & _VALUE).astype(np.uint32)


def _fill(found: Signatures) -> None:
    """Give empty bins the value of a filled one. Which is asked in which order is the same for all rows."""
    filled = found != NO_SHINGLES
    some = filled.any(axis=1)
    rows, bins = np.nonzero(~filled & some[:, None])
    attempt = 0
    while len(rows):
        places = np.arange(BINS, dtype=np.uint64) + np.uint64(BINS * attempt)
        donors = (mixed(places * _ODD) >> np.uint64(64 - _BIN_BITS)).astype(np.int64)[bins]
        taken = filled[rows, donors]
        found[rows[taken], bins[taken]] = found[rows[taken], donors[taken]]
        rows, bins = rows[~taken], bins[~taken]
        attempt += 1


def band_keys(found: Signatures, bands: Bands) -> Hashes:
    """One number for every band of every row [N, B]; rows with an equal one are candidates."""
    keys = np.empty((len(found), bands.count), np.uint64)
    steps = np.cumprod(np.full(bands.rows, _ODD))
    for first in range(0, len(found), _ROWS_AT_ONCE):
        part = found[first : first + _ROWS_AT_ONCE, : bands.count * bands.rows]
        sums = np.zeros((len(part), bands.count), np.uint64)
        for place, step in enumerate(steps):  # a sum over the last of three axes takes four times as long
            sums += part[:, place :: bands.rows] * step
        keys[first : first + len(part)] = mixed(sums)
    return keys
