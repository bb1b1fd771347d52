"""Where personal data stand in texts: hints by polars over all of them, patterns by Python where a hint was true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from tunesmith.data.pii.patterns import ALL_TYPES, Pattern, patterns_of
from tunesmith.recipe.specs.clean import PiiType

_WORDS_BEFORE = 24
"""Characters before a number in which a word may say that it is an order's or a part's."""


@dataclass(frozen=True)
class Hit:
    """A value of a type at text[start:end]."""

    type: PiiType
    start: int
    end: int


class Tagger(Protocol):
    """Finds people's names: for every text the (start, end) of each."""

    def __call__(self, texts: Sequence[str]) -> Sequence[Sequence[tuple[int, int]]]:
        """Places of names in each of the texts."""
        ...


class Finder:
    """Looks for some types (none named: all). A tagger, where given, finds names beside the patterns."""

    def __init__(self, types: Sequence[PiiType] = (), tagger: Tagger | None = None) -> None:
        wanted = types or ALL_TYPES
        self._patterns = patterns_of(wanted)
        self._tagger = tagger if "name" in wanted else None
        self._hints = list(dict.fromkeys(pattern.hint for pattern in self._patterns))

    def may_hold(self, text: pl.Expr) -> pl.Expr:
        """Whether a text may hold anything: true too often, never too rarely. All texts go to a tagger."""
        if self._tagger:
            return text.is_not_null()
        # One by one: each has letters of its own to jump to; as one expression they are read a thousand times slower.
        return pl.any_horizontal(*(text.str.contains(hint) for hint in self._hints))

    def find_all(self, texts: Sequence[str]) -> list[list[Hit]]:
        """What stands in each of the texts, in its order, nothing twice."""
        column = pl.Series("text", texts, dtype=pl.String)
        hinted = pl.select(
            pl.lit(column).str.contains(pattern.hint).alias(str(place)) for place, pattern in enumerate(self._patterns)
        )
        found: list[list[Hit]] = [[] for _ in texts]
        for place, pattern in enumerate(self._patterns):
            for row in hinted[str(place)].arg_true():
                found[row] += _hits(pattern, texts[row])
        if self._tagger is not None:
            for hits, names in zip(found, self._tagger(texts), strict=True):
                hits += [Hit("name", start, end) for start, end in names]
        return [_apart(hits) if len(hits) > 1 else hits for hits in found]


def _hits(pattern: Pattern, text: str) -> Iterator[Hit]:
    for match in pattern.regex.finditer(text):
        start, end = match.span(pattern.regex.groups)  # group 0 is the whole of it
        if pattern.unless is not None and pattern.unless.search(text[max(0, start - _WORDS_BEFORE) : start]):
            continue
        if pattern.check is None or pattern.check(text[start:end]):
            yield Hit(pattern.type, start, end)


def _apart(hits: Sequence[Hit]) -> list[Hit]:
    """Hits without those that overlap one of an earlier pattern, in the order of the text."""
    kept: list[Hit] = []
    for hit in hits:
        if all(hit.end <= other.start or other.end <= hit.start for other in kept):
            kept.append(hit)
    return sorted(kept, key=lambda hit: hit.start)
