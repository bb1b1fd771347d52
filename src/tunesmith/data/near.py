"""Near duplicates: rows whose shingles are mostly equal, found by signatures and judged by the shingles.

A pair of rows that share a band of their signatures is a candidate; it counts when its real Jaccard similarity
(shingles in both by shingles in either) reaches the threshold. So what is found is never wrong, and one pair in a
hundred exactly at the threshold may be missed, fewer above it.

    N rows   P pairs   B bands
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tunesmith.data.minhash import BINS, Bands, Signatures, band_keys, signatures
from tunesmith.data.shingles import Hashes, Shingled, shingle

Rows = NDArray[np.int64]

_ALL_PAIRS = 8
"""Rows of a bucket up to which all pairs are candidates; in larger ones each row meets the first and the one before."""
_DEVIATIONS = 4.0
"""A signature's estimate this many standard deviations below the threshold settles that a pair is not near."""
_SHINGLES_AT_ONCE = 1 << 20
_HASH_BITS = 43
"""What is left of a hash beside the number of its row, of which there are fewer than 2^21 at once."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of near rows, by their places: `left` [P] is before `right` [P]; `similarity` [P] is their Jaccard."""

    left: Rows
    right: Rows
    similarity: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.left)

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        """Only some of them."""
        return Pairs(self.left[chosen], self.right[chosen], self.similarity[chosen])


NOTHING_NEAR = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def near_pairs(texts: pl.Series, threshold: float) -> Pairs:
    """The pairs of texts at least `threshold` similar; a text without words is near to none."""
    shingled = shingle(texts)
    found = signatures(shingled)
    keys = band_keys(found, Bands.for_threshold(threshold))
    left, right = likely(found, *candidates(keys, shingled.counts > 0), threshold)
    similarity = jaccard(shingled, left, right)
    return Pairs(left, right, similarity).where(similarity >= threshold)


def candidates(keys: Hashes, usable: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """The pairs of rows that share a band, each once [P], [P]; unusable rows meet nobody. `keys` are of `band_keys`."""
    rows = np.flatnonzero(usable)
    found = [np.empty(0, np.int64)]
    for band in keys.T:
        found.append(np.unique(_of_bucket(band[rows], rows, len(keys))))
    pairs = np.unique(np.concatenate(found))
    return pairs // max(len(keys), 1), pairs % max(len(keys), 1)


def _of_bucket(band: Hashes, rows: Rows, count: int) -> Rows:
    """Pairs of rows with an equal key, as left * count + right.

    A row's place takes the last bits of its key, so that plain numbers are sorted: ten times as fast as an order of
    them. The bits that are left tell keys of a million rows apart but for one in 2^24, and a candidate is no pair yet.
    """
    bits = np.uint64(len(rows).bit_length())
    sorted_keys = (band >> bits << bits) | np.arange(len(rows), dtype=np.uint64)
    sorted_keys.sort()
    equal = (sorted_keys[1:] >> bits) == (sorted_keys[:-1] >> bits)
    shared = np.append(equal, False) | np.append(False, equal) if len(rows) else np.empty(0, np.bool_)
    chosen = sorted_keys[shared]  # most rows share a key with nobody
    band, rows = chosen >> bits, rows[(chosen & ~(~np.uint64(0) << bits)).astype(np.int64)]
    new = np.append(True, band[1:] != band[:-1]) if len(band) else np.empty(0, np.bool_)
    bucket = np.cumsum(new) - 1
    start = np.flatnonzero(new)
    size = np.diff(np.append(start, len(band)))
    place = np.arange(len(band)) - start[bucket]
    found = []
    for step in range(1, _ALL_PAIRS):
        later = np.flatnonzero((place >= step) & ((size[bucket] <= _ALL_PAIRS) | (step == 1)))
        found.append(rows[later - step] * count + rows[later])
    first = np.flatnonzero((place > 1) & (size[bucket] > _ALL_PAIRS))
    found.append(rows[start[bucket[first]]] * count + rows[first])
    return np.concatenate(found)


def likely(found: Signatures, left: Rows, right: Rows, threshold: float) -> tuple[Rows, Rows]:
    """The pairs that their signatures do not rule out. [P], [P]"""
    limit = threshold - _DEVIATIONS * float(np.sqrt(threshold * (1 - threshold) / BINS))
    chosen = [np.zeros(0, np.bool_)]
    for first in range(0, len(left), 1 << 16):
        part = slice(first, first + (1 << 16))
        chosen.append((found[left[part]] == found[right[part]]).mean(axis=1) >= limit)
    kept = np.concatenate(chosen)
    return left[kept], right[kept]


def jaccard(shingled: Shingled, left: Rows, right: Rows) -> NDArray[np.float64]:
    """Shingles in both rows by shingles in either, of each pair. [P]"""
    counts = shingled.counts
    done = np.cumsum(counts[left] + counts[right])
    result = [np.empty(0)]
    for part in np.split(np.arange(len(left)), np.flatnonzero(np.diff(done // _SHINGLES_AT_ONCE)) + 1):
        if len(part):
            result.append(_jaccard(shingled, left[part], right[part]))
    return np.concatenate(result)


def _jaccard(shingled: Shingled, left: Rows, right: Rows) -> NDArray[np.float64]:
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    sets = _sets(shingled, rows)
    sizes = np.diff(sets.indptr)
    one, other = places[: len(left)], places[len(left) :]
    common = np.asarray(sets[one].multiply(sets[other]).sum(axis=1)).ravel().astype(np.float64)
    result: NDArray[np.float64] = common / np.maximum(sizes[one] + sizes[other] - common, 1)
    return result


def _sets(shingled: Shingled, rows: Rows) -> csr_array:
    """A row a set, a column (with a one) a shingle: distinct and in order, as scipy's fast product wants them."""
    starts, counts = shingled.offsets[rows], shingled.counts[rows]
    ends = np.cumsum(counts)
    places = np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
    owner = np.repeat(np.arange(len(rows), dtype=np.uint64), counts) << np.uint64(_HASH_BITS)
    keys = owner | (shingled.hashes[places] >> np.uint64(64 - _HASH_BITS))
    keys.sort()  # np.unique, which hashes, takes ten times as long
    keys = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
    owner = keys >> np.uint64(_HASH_BITS)
    columns = (keys & np.uint64((1 << _HASH_BITS) - 1)).astype(np.int64)
    indptr = np.searchsorted(owner, np.arange(len(rows) + 1, dtype=np.uint64))
    sets = csr_array((np.ones(len(columns), np.int32), columns, indptr), shape=(len(rows), 1 << _HASH_BITS))
    sets.has_canonical_format = True
    return sets


def leaders(pairs: Pairs, rank: Rows) -> Rows:
    """For each row the one that stays in its place, or itself. [N]

    Rows come in the order of `rank` [N] (all different, the least is the best): a row stays unless it is near to a
    better one that stays. So whatever goes is near to what stands for it, as a chain of near rows would not promise.
    """
    by_rank = np.argsort(rank)
    rank = np.argsort(by_rank)
    left, right = np.append(pairs.left, pairs.right), np.append(pairs.right, pairs.left)
    stays = np.ones(len(rank), np.bool_)
    settled = np.ones(len(rank), np.bool_)
    settled[left] = False
    one, other = left, right
    while len(one):
        best = _least(one, rank[other], len(rank))  # among a row's open neighbours
        first = ~settled & (best > rank)
        settled |= first
        goes = other[first[one]]
        stays[goes] = False
        settled[goes] = True
        still = ~settled[one] & ~settled[other]
        one, other = one[still], other[still]
    standing = stays[right]
    best = _least(left[standing], rank[right[standing]], len(rank))
    return np.where(stays, np.arange(len(rank)), by_rank[np.minimum(best, len(rank) - 1)])


def _least(rows: Rows, values: Rows, count: int) -> Rows:
    """The least value of each row, `count` where it has none. [count]"""
    least = np.full(count, count)
    np.minimum.at(least, rows, values)
    return least
