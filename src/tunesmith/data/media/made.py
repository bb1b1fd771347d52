"""The pictures and sounds that were made: which ones the rows of a data set are about."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from tunesmith.core.types import Media
from tunesmith.data.media.content import MADE


def files_made(tables: Mapping[str, pl.DataFrame]) -> list[Media]:
    """Each of them once, in the order of their hashes."""
    path = pl.col("media").struct.field("path")
    found: dict[str, Media] = {}
    for frame in tables.values():
        made = frame.filter(path.str.starts_with(MADE))["media"]
        found |= {each["path"]: Media(**each) for each in made.to_list()}
    return [found[name] for name in sorted(found)]
