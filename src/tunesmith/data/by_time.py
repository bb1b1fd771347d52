"""The split by time: older rows are learned from, newer ones are asked about, as it will be in use.

Rows of one moment never part, so that a boundary lies between two moments and every row of a split is strictly older
than every row of the next. Rows that share a prompt or a group with a newer split are taken out of the older one behind
this cut (`prepare`): put into the newer split they would be old rows there.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import SPLITS, SplitName
from tunesmith.data.notes import Note

MOST_TAKEN_OUT = 0.5
"""Where more than this share of a split also stands in a newer one, time and groups cannot both be had."""
_MOST_UNREADABLE = 0.5
"""More rows without a time than this, and it is the column that is wrong."""


def split_by_time(frame: pl.DataFrame, shares: Mapping[SplitName, float]) -> dict[SplitName, pl.DataFrame]:
    """Cut the table at moments, each as near to the shares (relative sizes) as the rows of one moment allow.

    Args:
        frame: every row has a `time`.

    Returns: the splits named in `shares`, the oldest rows in train and the newest in test, rows in their old order.

    Errors: data.too_few_times.
    """
    names = [name for name in SPLITS if name in shares]
    moments = frame.group_by("time").len("rows").sort("time")
    if len(moments) < len(names):
        raise TunesmithError("data.too_few_times", found=len(moments), needed=len(names), rows=len(frame))
    rows_before = np.concatenate([[0], np.cumsum(moments["rows"].to_numpy())])
    wished = np.cumsum([shares[name] for name in names]) / sum(shares.values()) * len(frame)
    ends = [0]
    for place, end in enumerate(wished[:-1]):
        first, last = ends[-1] + 1, len(moments) - (len(names) - 1 - place)
        ends.append(first + int(np.abs(rows_before[first : last + 1] - end).argmin()))
    ends.append(len(moments))
    split_of = np.repeat(names, np.diff(ends))
    cut = moments.select("time", split=pl.Series(split_of.tolist(), dtype=pl.String))
    where = frame.select("time").join(cut, on="time", how="left", maintain_order="left")["split"]
    return {name: frame.filter(where == name) for name in names}


def check_readable(column: str, readable: int, unreadable: int) -> None:
    """Errors: data.missing_time (no row has one), data.unreadable_times (most have none)."""
    if unreadable and not readable:
        raise TunesmithError("data.missing_time", column=column, rows=unreadable)
    if unreadable > _MOST_UNREADABLE * (readable + unreadable):
        raise TunesmithError("data.unreadable_times", column=column, rows=unreadable, of=readable + unreadable)


def check_enough_left(before: Mapping[SplitName, int], after: Mapping[SplitName, pl.DataFrame]) -> None:
    """Errors: data.time_and_groups where most rows of a split also stand in a newer one."""
    for split, rows in before.items():
        gone = rows - len(after[split])
        if gone > MOST_TAKEN_OUT * rows:
            raise TunesmithError("data.time_and_groups", split=split, rows=gone, of=rows)


def check_order(frames: Mapping[SplitName, pl.DataFrame]) -> None:
    """Every row of a split is older than every row of the next, among rows that have a time.

    Errors: data.time_order.
    """
    timed = [(name, frames[name]["time"].drop_nulls()) for name in SPLITS if name in frames]
    present = [(name, times) for name, times in timed if len(times)]
    for (one, older), (other, newer) in pairwise(present):
        if (newer <= older.max()).any():
            raise TunesmithError("data.time_order", one=one, other=other, newest=_last(older), oldest=_first(newer))


def boundaries(frames: Mapping[str, pl.DataFrame]) -> list[Note]:
    """From when to when the rows of each table are."""
    return [
        Note(
            "data.split_by_time",
            {"split": name, "rows": len(frame), "first": _first(frame["time"]), "last": _last(frame["time"])},
        )
        for name, frame in frames.items()
        if frame["time"].drop_nulls().len()
    ]


def _first(times: pl.Series) -> str:
    return _written(times.sort(nulls_last=True).head(1))


def _last(times: pl.Series) -> str:
    return _written(times.sort(nulls_last=False).tail(1))


def _written(one: pl.Series) -> str:
    """The only time of a series as ISO 8601, down to seconds."""
    return str(one.dt.strftime("%Y-%m-%dT%H:%M:%SZ").item())
