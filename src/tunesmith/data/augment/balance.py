"""Classes or sources evened out among the training rows: rare ones repeated, frequent ones thinned out."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.seed import derive_seed
from tunesmith.data.augment.children import Child, Row, as_table
from tunesmith.recipe.specs.augment import BalanceSpec

_BETWEEN = "\x1f"
_WITH_LABELS = ("text_class", "image_class", "audio_class")


def balanced(frame: pl.DataFrame, spec: BalanceSpec, seed: int, ledger: Ledger) -> tuple[pl.DataFrame, int, int]:
    """The rows evened out, and how many were repeated and left out; the repeated ones stand behind the others.

    Errors: augment.nothing_to_balance for rows without labels of their own.
    """
    if spec.by == "label" and not frame["kind"].is_in(_WITH_LABELS).all():
        raise TunesmithError("augment.nothing_to_balance", kind=str(frame["kind"][0]))
    named = pl.col("source") if spec.by == "source" else pl.col("labels").list.join(_BETWEEN)
    groups = frame.select("row", name=named).group_by("name", maintain_order=True).agg("row").sort("name")
    sizes = [len(rows) for rows in groups["row"]]
    upper, lower = _target(spec.up_to, sizes, 0), _target(spec.down_to, sizes, max(sizes))
    gone: list[int] = []
    repeated: list[int] = []
    for name, rows in groups.iter_rows():
        chance = random.Random(derive_seed(seed, f"balance {name}"))
        order = chance.sample(rows, len(rows))
        gone += order[lower:]
        kept = order[:lower]
        repeated += [kept[place % len(kept)] for place in range(upper - len(kept))]
    ledger.decide(sorted(gone), "dropped", "thinned_out")
    left = frame.filter(~pl.col("row").is_in(pl.Series(gone, dtype=pl.Int64).implode()))
    rows_by_number = {row["row"]: row for row in left.iter_rows(named=True)} if repeated else {}
    children = [_again(rows_by_number[number]) for number in sorted(repeated)]
    return pl.concat([left, as_table(children, "made_by_repetition", ledger)]), len(repeated), len(gone)


def _again(row: Row) -> Child:
    """A repetition; that of a made row has that one's parent."""
    parent = row["row"] if row["parent"] is None else row["parent"]
    return Child(int(str(parent)), row)


def _target(stated: int | str | None, sizes: Sequence[int], otherwise: int) -> int:
    """So many rows as a setting means."""
    if isinstance(stated, int):
        return stated
    named = {"most": max(sizes), "least": min(sizes), "median": int(statistics.median(sizes))}
    return named[stated] if stated is not None else otherwise
