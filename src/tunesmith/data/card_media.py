"""What the data card says of pictures and sounds: how many files, of what forms and sizes, how long, how many boxes."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from tunesmith.data.card_parts import Cell, Section, Table
from tunesmith.messages import both


def media_section(tables: Mapping[str, pl.DataFrame]) -> Section | None:
    """A line a table; nothing where rows are about words alone."""
    media = {
        name: frame.select(pl.col("media").struct.unnest(), "boxes").drop_nulls("sha256")
        for name, frame in tables.items()
    }
    if all(frame.is_empty() for frame in media.values()):
        return None
    pictures = any((frame["width"] > 0).any() for frame in media.values())
    names = (
        "files",
        "forms",
        "megabytes",
        *(("sizes", "turned", "boxes") if pictures else ("seconds", "rates", "channels")),
    )
    columns = (both("data.column_split"), *(both(f"card.column_{name}") for name in names))
    rows = tuple(
        (name, *_facts(frame), *(_pictures(frame) if pictures else _sounds(frame))) for name, frame in media.items()
    )
    words = both("card.media_pictures" if pictures else "card.media_sounds")
    return Section(both("card.media"), (words, Table(columns, rows)))


def _facts(frame: pl.DataFrame) -> tuple[Cell, ...]:
    forms = ", ".join(frame["form"].unique().sort().to_list())
    return frame["sha256"].n_unique(), forms or "-", f"{frame['bytes'].sum() / 2**20:.1f}"


def _pictures(frame: pl.DataFrame) -> tuple[Cell, ...]:
    turned = int((frame["orientation"] > 1).sum())
    return f"{_range(frame['width'])} × {_range(frame['height'])}", turned, int(frame["boxes"].list.len().sum())


def _sounds(frame: pl.DataFrame) -> tuple[Cell, ...]:
    seconds = frame["seconds"]
    return f"{seconds.sum():.1f} ({_range(seconds.round(2))})", _range(frame["sample_rate"]), _range(frame["channels"])


def _range(values: pl.Series) -> str:
    ends = [str(each) for each in values.sort().gather([0, len(values) - 1])] if len(values) else ["-"]
    return "–".join(dict.fromkeys(ends))
