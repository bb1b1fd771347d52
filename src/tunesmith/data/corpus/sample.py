"""Rows of a finished corpus drawn at random: only the files that hold one are read."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import polars as pl

from tunesmith.data.corpus.side import rows_of
from tunesmith.data.corpus.stated import shards_of


def sample(folder: Path, splits: Sequence[str], count: int, seed: int) -> Iterator[tuple[str, Mapping[str, object]]]:
    """`count` rows of some splits (all where there are fewer), in their order, each with its split."""
    paths = [(split, path) for split in splits for path in shards_of(folder, split)]
    ends = list(accumulate(rows_of(path) for _, path in paths))
    rows = ends[-1] if ends else 0
    for place in sorted(random.Random(seed).sample(range(rows), min(count, rows))):
        number = bisect_right(ends, place)
        split, path = paths[number]
        before = ends[number - 1] if number else 0
        yield split, pl.read_parquet(path).row(place - before, named=True)
