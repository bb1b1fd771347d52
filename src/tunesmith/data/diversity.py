"""How varied texts are: the share of their n-grams that occur once more or less often, and how far they compress.

distinct-n is the number of different n-grams over the number of all (Li et al. 2016, 1510.03055, who divide by words).
It falls with the length of what is measured, so tables are compared on the same number of words, in rows drawn by a
fixed seed. The compression ratio is the size of the text over its size after DEFLATE (Shaib et al. 2024,
2403.00553): higher means more repetition. A word is a run of letters and digits, or a single Chinese character.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl

MOST_WORDS = 100_000
_MOST_CHARACTERS = 1_000_000
_WORD = r"\p{Han}|[[\p{L}\p{N}]--\p{Han}]+"
_ORDERS = (1, 2, 3)


@dataclass(frozen=True)
class Diversity:
    """Of so many words in so many rows: distinct-1, -2 and -3 (0..1), and the compression ratio (1 and more)."""

    rows: int
    words: int
    distinct: tuple[float, ...]
    compression: float


def compared(tables: Sequence[pl.Series]) -> list[Diversity]:
    """Measure tables of text on as many words as the smallest of them has, at most `MOST_WORDS`."""
    found = [diversity(texts) for texts in tables]
    least = min((each.words for each in found if each.words), default=0)
    return [each if each.words == least else diversity(texts, least) for each, texts in zip(found, tables, strict=True)]


def diversity(texts: pl.Series, most_words: int = MOST_WORDS, seed: int = 0) -> Diversity:
    """Measure rows of text; rows without a word count for nothing."""
    drawn = texts.gather(_drawn(texts, seed))
    words = [found for found in drawn.str.to_lowercase().str.extract_all(_WORD).to_list() if found]
    taken = list(_first(words, most_words))
    raw = "\n".join(drawn).encode()
    packed = len(zlib.compress(raw, 6))
    distinct = tuple(_distinct(taken, order) for order in _ORDERS)
    return Diversity(len(taken), sum(map(len, taken)), distinct, len(raw) / packed if raw else 1.0)


def _drawn(texts: pl.Series, seed: int) -> list[int]:
    """Places of rows in a drawn order, until they hold enough characters."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    sizes, total = texts.str.len_chars().to_list(), 0
    for count, place in enumerate(order):
        total += sizes[place]
        if total > _MOST_CHARACTERS:
            return order[: count + 1]
    return order


def _first(rows: Sequence[Sequence[str]], most: int) -> Iterator[Sequence[str]]:
    for row in rows:
        if most <= 0:
            return
        yield row[:most]
        most -= len(row)


def _distinct(rows: Sequence[Sequence[str]], order: int) -> float:
    grams = [tuple(row[start : start + order]) for row in rows for start in range(len(row) - order + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
