"""Texts to hashes of their shingles, for many rows at once: what near duplicates are found and judged by.

A token is a word, a mathematical sign, or a single character of a script that writes without spaces (Chinese, Japanese,
Thai ...). A shingle is SIZE tokens that follow each other. Case, full-width forms, punctuation and blanks make no
difference. Everything happens on arrays of a whole batch, with numbers of unlimited 64-bit arithmetic:

    C code points   T tokens   S shingles   N rows
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

SIZE = 3
"""Tokens of a shingle. One changed word costs three of them, so short rows count as near only when nearly equal."""

_OWN_TOKEN = np.uint32(1 << 31)
_WITHOUT_SPACES = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # Japanese syllables
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_LOOKED_UP = 0x20000
"""Code points from here on are Han or have no case and no words."""

_RADIX, _ROW_RADIX = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F  # odd, so that they have an inverse modulo 2^64
_STEP = np.uint64(0xD6E8FEB86659FD93)
_CODE_POINTS_AT_ONCE = 1 << 17
"""The arrays of a part then stay in the processor's cache."""


@dataclass(frozen=True)
class Shingled:
    """Hashes of the shingles of N rows in their order; those of row n are `hashes[offsets[n] : offsets[n + 1]]`.

    Rows without a single token have none. `row_keys` are equal for rows with the same tokens in the same order.
    """

    hashes: Hashes  # [S]
    offsets: NDArray[np.int64]  # [N + 1]
    row_keys: Hashes  # [N]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Shingles of each row. [N]"""
        return np.diff(self.offsets)


def shingle(texts: pl.Series, size: int = SIZE) -> Shingled:
    """The shingles of texts, `size` tokens each; a text of fewer is one shingle, and a null is nothing."""
    parts = list(shingle_parts(texts, size))
    if not parts:
        return Shingled(np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.uint64))
    counts = np.concatenate([part.counts for part in parts])
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    hashes, keys = (np.concatenate([getattr(part, name) for part in parts]) for name in ("hashes", "row_keys"))
    return Shingled(hashes, offsets, keys)


def shingle_parts(texts: pl.Series, size: int = SIZE) -> Iterator[Shingled]:
    """The same in parts that stay in the processor's cache, each of some rows: nothing of no texts."""
    texts = texts.fill_null("")
    ends = np.cumsum(texts.str.len_chars().to_numpy(), dtype=np.int64)
    for first, last in _parts(ends):
        yield _shingle_part(texts[first:last], size)


def _parts(ends: NDArray[np.int64]) -> list[tuple[int, int]]:
    """First and last row of parts of about `_CODE_POINTS_AT_ONCE`; a longer row is a part of its own."""
    if not len(ends):
        return []
    part = ends // _CODE_POINTS_AT_ONCE
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(part)) + 1, [len(ends)]])
    return list(pairwise(firsts.tolist()))


def _shingle_part(texts: pl.Series, size: int) -> Shingled:
    letters, row_starts = _letters(texts)
    tokens, token_starts = _tokens(letters)
    token_offsets = np.searchsorted(token_starts, row_starts)
    return _of_tokens(tokens, token_offsets, size)


def _letters(texts: pl.Series) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The folded code points [C] of all texts with a separator behind each, and where each text starts [N + 1]."""
    lengths = texts.str.len_chars().to_numpy().astype(np.int64)
    joined = "\n".join(texts.to_list()) + "\n"
    code_points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    return _fold_table().take(code_points), np.concatenate([[0], np.cumsum(lengths + 1)])


def _tokens(letters: NDArray[np.uint32]) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash of every token and the place where it starts. [T], [T]

    A token's hash is the polynomial of its letters. Sums over all letters so far give it as a difference (Karp and
    Rabin 1987); a separator is 0, so the blanks behind a token add nothing.
    """
    starts = np.flatnonzero(_is_start(letters))
    powers, inverses = _powers(_RADIX, len(letters) + 1)
    sums = np.empty(len(letters) + 1, np.uint64)
    sums[0] = 0
    np.multiply(letters, powers[:-1], out=sums[1:], dtype=np.uint64)
    np.cumsum(sums[1:], out=sums[1:])
    at = sums.take(starts)
    following = np.append(at[1:], sums[-1:])
    return (following - at) * inverses.take(starts), starts


def _is_start(letters: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Where a token begins: a word behind a separator or a single character, and every single character. [C]"""
    joins = (letters != 0) & (letters < _OWN_TOKEN)
    start: NDArray[np.bool_] = letters != 0
    start[1:] &= ~(joins[1:] & joins[:-1])
    return start


def _of_tokens(tokens: Hashes, offsets: NDArray[np.int64], size: int) -> Shingled:
    """Shingles and keys of rows from their tokens [T]; `offsets` [N + 1] says which belong to which."""
    counts = np.diff(offsets)
    shingle_counts = np.maximum(counts - (size - 1), np.minimum(counts, 1))
    shingle_offsets = np.concatenate([[0], np.cumsum(shingle_counts)])
    first = np.arange(shingle_offsets[-1]) + np.repeat(offsets[:-1] - shingle_offsets[:-1], shingle_counts)
    padded = np.append(tokens, np.zeros(size, np.uint64))
    steps = np.cumprod(np.full(size, _STEP))
    hashes = padded.take(first) * steps[0]
    for place in range(1, size):
        hashes += padded.take(first + place) * steps[place]
    short = np.flatnonzero((counts > 0) & (counts < size))  # what stands behind their tokens is the next row's
    hashes[shingle_offsets[short]] = 0
    for place in range(size):
        long_enough = short[counts[short] > place]
        hashes[shingle_offsets[long_enough]] += padded[offsets[long_enough] + place] * steps[place]
    return Shingled(mixed(hashes), shingle_offsets, _row_keys(tokens, offsets))


def _row_keys(tokens: Hashes, offsets: NDArray[np.int64]) -> Hashes:
    """The polynomial of a row's tokens. [N]"""
    powers, inverses = _powers(_ROW_RADIX, len(tokens) + 1)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed(tokens) * powers[:-1])])
    at = sums.take(offsets)
    return mixed((at[1:] - at[:-1]) * inverses.take(offsets[:-1]))


def mixed(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit of the value (the end of splitmix64, Steele and others 2014)."""
    result = values ^ (values >> np.uint64(30))
    result *= np.uint64(0xBF58476D1CE4E5B9)
    result ^= result >> np.uint64(27)
    result *= np.uint64(0x94D049BB133111EB)
    result ^= result >> np.uint64(31)
    return result


@cache
def _fold_table() -> NDArray[np.uint32]:
    """The folded form of every code point: 0 for what separates, the highest bit set for a token of its own."""
    table = np.zeros(sys.maxunicode + 1, np.uint32)
    table[:_LOOKED_UP] = [_folded(chr(code)) for code in range(_LOOKED_UP)]
    for first, last in _WITHOUT_SPACES:
        part = table[first : last + 1]
        if first >= _LOOKED_UP:
            part[:] = np.arange(first, last + 1)
        part[part != 0] |= _OWN_TOKEN
    return table


def _folded(character: str) -> int:
    plain = unicodedata.normalize("NFKC", character).lower()
    kinds = {unicodedata.category(each) for each in plain}
    if kinds <= {"Sm"}:
        return ord(plain[0]) | int(_OWN_TOKEN)
    if not any(kind[0] in "LMN" for kind in kinds):
        return 0
    return ord(plain) if len(plain) == 1 else ord(character)


class _Powers:
    """Powers of a radix and of its inverse modulo 2^64, as many as were ever asked for."""

    def __init__(self, radix: int) -> None:
        self._radix = radix
        self._tables = (np.empty(0, np.uint64), np.empty(0, np.uint64))

    def first(self, count: int) -> tuple[Hashes, Hashes]:
        """Powers 0 to count - 1 of both."""
        powers, inverses = self._tables
        if len(powers) < count:
            powers, inverses = (
                _powers_of(base, max(count, _CODE_POINTS_AT_ONCE))
                for base in (self._radix, pow(self._radix, -1, 1 << 64))
            )
            self._tables = powers, inverses
        return powers[:count], inverses[:count]


def _powers_of(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


_TABLES = {radix: _Powers(radix) for radix in (_RADIX, _ROW_RADIX)}


def _powers(radix: int, count: int) -> tuple[Hashes, Hashes]:
    return _TABLES[radix].first(count)
