"""Splits kept apart by likeness: no prompt of one is nearly one of another, no training row repeats a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from tunesmith.data.dedup import Embedder, close_pairs
from tunesmith.data.keys import asked, said
from tunesmith.data.near import Pairs, near_pairs
from tunesmith.data.shingles import shingle

OVERLAP_TOKENS = 8
OVERLAP_SHARE = 0.5
"""A row repeats a passage of a benchmark when it holds at least this share of the passage's runs of OVERLAP_TOKENS
tokens (as Tulu 3 was decontaminated, Lambert and others 2024, section 3.2). Shorter passages say nothing."""

_QUESTION_TOKENS = 4
"""Shorter passages of a benchmark are answers to choose from: alike in meaning to nearly any short text."""

_PROTECTED = ("test", "validation")
"""Tables in the order in which they keep their rows; the others come behind."""


def near_prompts(frame: pl.DataFrame, threshold: float) -> Pairs:
    """The pairs of rows whose prompts are near, by their places in the table."""
    return near_pairs(frame.select(asked())["asked"], threshold)


def near_across(frames: Mapping[str, pl.DataFrame], threshold: float) -> pl.DataFrame:
    """Rows whose prompt is near to one of a table that goes before theirs.

    Columns: `name` and `row`, and `other` and `partner` of the row they are near to, one line a row.
    """
    return _one_a_row(near_pairs_across(frames, threshold))


def means_across(frames: Mapping[str, pl.DataFrame], threshold: float, embed: Embedder) -> pl.DataFrame:
    """Rows whose prompt means what one of a table that goes before theirs does: the cosine of their vectors says so.

    Columns as those of `near_across`. A row without words means nothing.
    """

    def close(texts: pl.Series) -> Pairs:
        places = (texts != "").arg_true().to_numpy().astype(np.int64)
        pairs = close_pairs(embed(texts.gather(places).to_list()), threshold)
        return Pairs(places[pairs.left], places[pairs.right], pairs.similarity)

    return _one_a_row(_pairs_across(frames, close))


def _one_a_row(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.unique("row", keep="first", maintain_order=True).drop("similarity")


def near_pairs_across(frames: Mapping[str, pl.DataFrame], threshold: float) -> pl.DataFrame:
    """The pairs of rows of different tables whose prompts are near, in one pass.

    Columns: `name` and `row`, and `other` and `partner` of the row in the table that goes before, and the `similarity`
    (Jaccard) of the two.
    """
    return _pairs_across(frames, lambda texts: near_pairs(texts, threshold))


def _pairs_across(frames: Mapping[str, pl.DataFrame], alike: Callable[[pl.Series], Pairs]) -> pl.DataFrame:
    order = sorted(frames, key=lambda name: _PROTECTED.index(name) if name in _PROTECTED else len(_PROTECTED))
    tables = [frames[name].select("row", asked(), name=pl.lit(name), place=place) for place, name in enumerate(order)]
    joined = pl.concat(tables).sort("row")
    pairs = alike(joined["asked"])
    ends = joined.select("name", "row", "place")
    place = ends["place"].to_numpy()
    later = np.where(place[pairs.left] > place[pairs.right], pairs.left, pairs.right)
    earlier = pairs.left + pairs.right - later
    similarity = pl.Series("similarity", pairs.similarity)
    kept_for = ends[earlier].select(similarity, other="name", partner="row", first="place")
    found = pl.concat([ends[later], kept_for], how="horizontal").filter(pl.col("first") < pl.col("place"))
    return found.sort("row", "first", "partner").select("name", "row", "other", "partner", "similarity")


def repeats(frame: pl.DataFrame, passages: Sequence[tuple[int, str]]) -> pl.DataFrame:
    """The `row`s that repeat one of the passages, in their order, and as `partner` the number of the first of these.

    Args:
        passages: texts with the number of the benchmark's row that they stand in.
    """
    numbers = _numbers(passages)
    runs = _runs(numbers["text"]).rename({"place": "passage"})
    sizes = runs.group_by("passage").len("size").filter(pl.col("size") > 1)  # one run may be of fewer tokens
    runs = runs.join(sizes, on="passage")
    shared = _runs(frame.select(said())["said"]).join(runs, on="run")
    found = shared.group_by("place", "passage", "size").len("common")
    found = found.filter(pl.col("common") >= OVERLAP_SHARE * pl.col("size"))
    return _partners(frame, numbers, found["place"], found["passage"])


def asks(frame: pl.DataFrame, passages: Sequence[tuple[int, str]], threshold: float, embed: Embedder) -> pl.DataFrame:
    """The `row`s whose prompt means what one of the passages does, and the first `partner` as `repeats` has it."""
    numbers = _numbers(passages)
    numbers = numbers.filter(pl.Series(shingle(numbers["text"], 1).counts >= _QUESTION_TOKENS, dtype=pl.Boolean))
    prompts = frame.select(asked())["asked"]
    places = (prompts != "").arg_true()
    if numbers.is_empty() or places.is_empty():
        return _partners(frame, numbers, pl.Series([], dtype=pl.Int64), pl.Series([], dtype=pl.Int64))
    cosine = embed(prompts.gather(places).to_list()) @ embed(numbers["text"].to_list()).T
    asking, passage = np.nonzero(cosine >= threshold)
    return _partners(frame, numbers, places.gather(asking), pl.Series(passage))


def _numbers(passages: Sequence[tuple[int, str]]) -> pl.DataFrame:
    """`number` of the row and `text` of each passage, each text once."""
    frame = pl.DataFrame(passages, schema={"number": pl.Int64, "text": pl.String}, orient="row")
    return frame.unique("text", keep="first", maintain_order=True)


def _partners(frame: pl.DataFrame, numbers: pl.DataFrame, places: pl.Series, passages: pl.Series) -> pl.DataFrame:
    found = pl.DataFrame({"row": frame["row"].gather(places), "partner": numbers["number"].gather(passages)})
    return found.group_by("row").agg(pl.col("partner").min()).sort("row")


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
