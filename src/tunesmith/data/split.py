"""The split: rows of one group or with one prompt never part, shares stay close to what is asked.

Rows that share a group or a prompt form a component (both relations joined). Components are put in an order that
only the seed and their own keys decide, and the order is cut at the shares: more rows move the cuts a little and
leave nearly every row where it was. Components that are large against the smallest share are placed first, each
where most is missing, so that small and lumpy data sets get sensible splits too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import SPLITS, SplitName
from tunesmith.data.apart import near_prompts
from tunesmith.data.keys import prompt_key
from tunesmith.data.near import NOTHING_NEAR

Places = NDArray[np.int64]
_LARGE = 0.25
"""A component above this part of the smallest share is placed by itself."""


def components(frame: pl.DataFrame, near: float | None = None) -> pl.DataFrame:
    """The rows' numbers with `component`: the least key of all rows that must stay together.

    Rows whose prompts are at least `near` similar stay together as well.
    """
    keyed = frame.select("row", prompt_key(), "group")
    prompts = keyed["prompt_key"].rank("dense").to_numpy().astype(np.int64) - 1
    has_group = (keyed["group"] != "").to_numpy()
    groups = keyed["group"].rank("dense").to_numpy().astype(np.int64) - 1
    prompt_count = int(prompts.max(initial=-1)) + 1
    nodes = prompt_count + int(groups.max(initial=-1)) + 1
    alike = near_prompts(frame, near) if near is not None else NOTHING_NEAR
    edges = (
        np.concatenate([prompts[has_group], prompts[alike.left]]),
        np.concatenate([prompt_count + groups[has_group], prompts[alike.right]]),
    )
    graph = coo_array((np.ones(len(edges[0]), dtype=np.int8), edges), shape=(nodes, nodes))
    label = connected_components(graph, directed=False)[1][prompts]
    # The group names a component before its prompts do: a group's place then survives new prompts in it.
    name = (
        pl.when(pl.col("group") != "").then(pl.lit("0") + pl.col("group")).otherwise(pl.lit("1") + pl.col("prompt_key"))
    )
    return keyed.with_columns(label=pl.Series(label), name=name).select(
        "row", component=pl.col("name").min().over("label")
    )


def split_rows(
    frame: pl.DataFrame,
    shares: Mapping[SplitName, float],
    seed: int,
    near: float | None = None,
    *,
    stratify: bool = False,
    fold: tuple[int, int] | None = None,
) -> dict[SplitName, pl.DataFrame]:
    """Cut the table into the splits named in `shares` (relative sizes), rows in their old order.

    Args:
        near: rows whose prompts are at least this similar stay together.
        stratify: whether each class is cut at the shares by itself.
        fold: (number from 1, of how many) equal parts the one that is test, whatever its share.

    Errors: data.too_few_prompts (fewer components than splits or parts).
    """
    if len(shares) == 1:
        return {next(iter(shares)): frame}
    joined = components(frame, near)
    sizes = joined.group_by("component").len("size")
    needed = max(len(shares), fold[1] if fold else 0)
    if len(sizes) < needed:
        raise TunesmithError("data.too_few_prompts", found=len(sizes), needed=needed, rows=len(frame))
    order = pl.Series("order", [place_of(name, seed) for name in sizes["component"]])
    sizes = sizes.with_columns(order).sort("order", "component")
    if stratify:
        sizes = sizes.join(_classes(frame, joined), on="component", how="left", maintain_order="left")
    placed = _placed(sizes, shares, seed, fold)
    where = joined.join(placed, on="component", how="left", maintain_order="left")["split"]
    return {split: frame.filter(where == split) for split in SPLITS if split in shares}


def _classes(frame: pl.DataFrame, joined: pl.DataFrame) -> pl.DataFrame:
    """`component`, `stratum`: the classes that most of its rows have."""
    marked = joined.with_columns(stratum=frame["labels"].list.unique().list.sort().list.join("\n"))
    counted = (
        marked.group_by("component", "stratum")
        .len()
        .sort("component", "len", "stratum", descending=[False, True, False])
    )
    return counted.group_by("component", maintain_order=True).agg(pl.col("stratum").first())


def _placed(
    sizes: pl.DataFrame, shares: Mapping[SplitName, float], seed: int, fold: tuple[int, int] | None
) -> pl.DataFrame:
    """`component`, `split`. With a fold, test is one of equal parts, and the other splits share the rest."""
    names: list[SplitName] = [name for name in shares if fold is None or name != "test"]
    weights = np.array([shares[name] for name in names])
    if fold is None:
        return _named(sizes, _cut(sizes, weights, seed), names)
    in_part = pl.Series(_cut(sizes, np.ones(fold[1]), seed) == fold[0] - 1)
    rest = sizes.filter(~in_part)
    test = sizes.filter(in_part).select("component", split=pl.lit("test"))
    return pl.concat([test, _named(rest, _cut(rest, weights, seed), names)])


def _named(sizes: pl.DataFrame, chosen: Places, names: Sequence[SplitName]) -> pl.DataFrame:
    return sizes.select("component", split=pl.Series([names[place] for place in chosen], dtype=pl.String))


def place_of(component: str, seed: int) -> int:
    """Where a component stands in the order of a seed, below 2^63."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{component}".encode()).digest()[:8], "big") >> 1


def _cut(sizes: pl.DataFrame, weights: NDArray[np.float64], seed: int) -> Places:
    """Which of the weighted parts each component goes to, for components in hash order."""
    size = sizes["size"].to_numpy().astype(np.float64)
    if "stratum" in sizes.columns:
        chosen = _cut_by_class(size, sizes["stratum"], weights, seed)
    else:
        chosen = _cut_all(size, weights)
    _fill_empty(chosen, size, len(weights))
    return chosen


def _cut_all(size: NDArray[np.float64], weights: NDArray[np.float64]) -> Places:
    missing = weights / weights.sum() * size.sum()
    chosen = np.full(len(size), -1)
    large = np.flatnonzero(size > _LARGE * missing.min())
    for place in large[np.argsort(-size[large], kind="stable")]:
        chosen[place] = int(missing.argmax())
        missing[chosen[place]] -= size[place]
    small = np.flatnonzero(chosen < 0)
    room = np.maximum(missing, 0.0)
    if len(small):
        ends = np.cumsum(room) / room.sum() * size[small].sum() if room.sum() else np.zeros(len(weights))
        middles = np.cumsum(size[small]) - size[small] / 2
        chosen[small] = np.minimum(np.searchsorted(ends, middles, side="right"), len(weights) - 1)
    return chosen


def _cut_by_class(size: NDArray[np.float64], strata: pl.Series, weights: NDArray[np.float64], seed: int) -> Places:
    """Each class is a circle that is cut at the shares, from a place of its own: a class of one row goes anywhere."""
    chosen = np.zeros(len(size), np.int64)
    ends = np.cumsum(weights) / weights.sum()
    for stratum in strata.unique():
        own = np.flatnonzero((strata == stratum).to_numpy())
        middles = (np.cumsum(size[own]) - size[own] / 2) / size[own].sum()
        turned = (middles + place_of(f"class {stratum}", seed) / 2**63) % 1
        chosen[own] = np.minimum(np.searchsorted(ends, turned, side="right"), len(weights) - 1)
    return chosen


def _fill_empty(chosen: Places, size: NDArray[np.float64], splits: int) -> None:
    """Give a split that got nothing the smallest component of the split that has most components."""
    for split in range(splits):
        counts = np.bincount(chosen, minlength=splits)
        if counts[split] == 0:
            donors = np.flatnonzero(chosen == counts.argmax())
            chosen[donors[size[donors].argmin()]] = split


def shared_with(frame: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """`row`, `same_prompt`, `same_group` of the rows of `frame` that share either with a row of `other`."""
    prompts = other.select(prompt_key())["prompt_key"].unique()
    groups = other.filter(pl.col("group") != "")["group"].unique()
    marked = frame.select(
        "row",
        same_prompt=prompt_key().is_in(prompts.implode()),
        same_group=pl.col("group").is_in(groups.implode()),
    )
    return marked.filter(pl.col("same_prompt") | pl.col("same_group"))


def check_leaks(frames: Mapping[SplitName, pl.DataFrame]) -> int:
    """Rows in any split that share a prompt or a group with another split: always 0 when this returns.

    Errors: data.leak.
    """
    present = [split for split in SPLITS if split in frames]
    for place, one in enumerate(present):
        for other in present[place + 1 :]:
            shared = shared_with(frames[one], frames[other])
            if len(shared):
                raise TunesmithError("data.leak", rows=len(shared), one=one, other=other)
    return 0
