"""Between the halves: values that are to be masked get their placeholders, the same in all parts.

Placeholders are numbered in the order in which values are first met, so nothing can be masked before every part is
there. What each part found is small, and read part after part; then the rows that hold something are masked and marked
anew, several parts at a time. What comes out is what one table in memory would have become.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tunesmith.data.corpus.part import is_part, make_masked, masked_of, read_cleaned, read_hits
from tunesmith.data.pii.apply import Held, PersonalData
from tunesmith.data.pii.find import Hit
from tunesmith.data.pii.mask import Masker
from tunesmith.recipe.specs.clean import PiiSpec, PiiType


def number_values(parts: Sequence[Path]) -> Masker:
    """A placeholder for every value of all parts."""
    masker = Masker()
    for part in parts:
        for kind, value in _values(part):
            masker.placeholder(kind, value)
    return masker


def with_own_values(parts: Sequence[Path], masker: Masker) -> Iterator[tuple[Path, Masker]]:
    """Each part with the placeholders of its own values: of a large corpus nobody needs all of them."""
    for part in parts:
        yield part, masker.knowing(_values(part))


def _values(part: Path) -> Iterable[tuple[PiiType, str]]:
    return read_hits(part).select("type", "value").iter_rows()


def mask_part(part: Path, spec: PiiSpec, masker: Masker) -> None:
    """Mask the rows of a part that hold something, unless that was done before. Errors: those of `new_folder`.

    Args:
        masker: knows every value of the part already.
    """
    hits = read_hits(part)
    if hits.is_empty() or is_part(masked_of(part)):
        return
    rows = read_cleaned(part)
    holds = rows["row"].is_in(hits["row"].unique().implode())
    chosen = rows.filter(holds)
    masked = PersonalData(spec, masker=masker).mask(chosen, _held(chosen, hits))
    make_masked(part, masked, np.flatnonzero(holds.to_numpy()))


def _held(rows: pl.DataFrame, hits: pl.DataFrame) -> Held:
    """What `PersonalData.search` had found in these rows."""
    found: dict[tuple[int, str], list[Hit]] = {}
    for row, column, kind, start, end in hits.select("row", "column", "type", "start", "end").iter_rows():
        found.setdefault((row, column), []).append(Hit(kind, start, end))
    by_text: dict[str, list[Hit]] = {"": []}
    for row, *contents in rows.select("row", "text", "group").iter_rows():
        for column, content in zip(("text", "group"), contents, strict=True):
            by_text[content] = found.get((row, column), [])
    return Held(tuple(rows["row"]), by_text)
