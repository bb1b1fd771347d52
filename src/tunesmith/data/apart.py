"""Splits kept apart by likeness: no prompt of one is nearly one of another, no training row repeats a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from tunesmith.data.keys import asked, said
from tunesmith.data.near import Pairs, near_pairs
from tunesmith.data.shingles import shingle

OVERLAP_TOKENS = 8
OVERLAP_SHARE = 0.5
"""A row repeats a passage of a benchmark when it holds at least this share of the passage's runs of OVERLAP_TOKENS
tokens (as Tulu 3 was decontaminated, Lambert and others 2024, section 3.2). Shorter passages say nothing."""

_PROTECTED = ("test", "validation")
"""Tables in the order in which they keep their rows; the others come behind."""


def near_prompts(frame: pl.DataFrame, threshold: float) -> Pairs:
    """The pairs of rows whose prompts are near, by their places in the table."""
    return near_pairs(frame.select(asked())["asked"], threshold)


def near_across(frames: Mapping[str, pl.DataFrame], threshold: float) -> pl.DataFrame:
    """Rows whose prompt is near to one of a table that goes before theirs.

    Columns: `name` and `row`, and `other` and `partner` of the row they are near to, one line a row.
    """
    found = near_pairs_across(frames, threshold)
    return found.unique("row", keep="first", maintain_order=True).drop("similarity")


def near_pairs_across(frames: Mapping[str, pl.DataFrame], threshold: float) -> pl.DataFrame:
    """The pairs of rows of different tables whose prompts are near, in one pass.

    Columns: `name` and `row`, and `other` and `partner` of the row in the table that goes before, and the `similarity`
    (Jaccard) of the two.
    """
    order = sorted(frames, key=lambda name: _PROTECTED.index(name) if name in _PROTECTED else len(_PROTECTED))
    tables = [frames[name].select("row", asked(), name=pl.lit(name), place=place) for place, name in enumerate(order)]
    joined = pl.concat(tables).sort("row")
    pairs = near_pairs(joined["asked"], threshold)
    ends = joined.select("name", "row", "place")
    place = ends["place"].to_numpy()
    later = np.where(place[pairs.left] > place[pairs.right], pairs.left, pairs.right)
    earlier = pairs.left + pairs.right - later
    alike = pl.Series("similarity", pairs.similarity)
    kept_for = ends[earlier].select(alike, other="name", partner="row", first="place")
    found = pl.concat([ends[later], kept_for], how="horizontal").filter(pl.col("first") < pl.col("place"))
    return found.sort("row", "first", "partner").select("name", "row", "other", "partner", "similarity")


def repeats(frame: pl.DataFrame, passages: Iterable[str]) -> list[int]:
    """Numbers of the rows that repeat one of the passages, in their order."""
    runs = _runs(pl.Series(sorted(set(passages)), dtype=pl.String)).rename({"place": "passage"})
    sizes = runs.group_by("passage").len("size").filter(pl.col("size") > 1)  # one run may be of fewer tokens
    runs = runs.join(sizes, on="passage")
    shared = _runs(frame.select(said())["said"]).join(runs, on="run")
    found = shared.group_by("place", "passage", "size").len("common")
    places = found.filter(pl.col("common") >= OVERLAP_SHARE * pl.col("size"))["place"].unique().sort()
    return frame["row"].gather(places).to_list()


def _runs(texts: pl.Series) -> pl.DataFrame:
    """`place` of a text and the hash of a `run` of its tokens, each pair once."""
    found = shingle(texts, OVERLAP_TOKENS)
    return pl.DataFrame({"place": np.repeat(np.arange(len(texts)), found.counts), "run": found.hashes}).unique()


def texts_of(value: object) -> Iterable[str]:
    """All texts in a row of a file, however deep they stand."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from texts_of(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from texts_of(each)
