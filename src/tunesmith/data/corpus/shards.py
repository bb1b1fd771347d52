"""The second half of the pass: rows that stay go to their split, every row's fate to the ledger, a part at a time.

A row's place follows from its words (or its group) and the seed alone: more rows never move another, and shares are met
as closely as chance does. Rows with the same tokens, or of one group, have the same place.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tunesmith.core.files import write_atomic
from tunesmith.core.seed import derive_seed
from tunesmith.core.types import SPLITS, SplitName
from tunesmith.data.corpus.decide import EXACT, NEAR, PartDecision
from tunesmith.data.corpus.part import check_part, read_fates, read_marks, read_rows
from tunesmith.data.near import Rows
from tunesmith.data.shingles import Hashes, mixed
from tunesmith.data.split import place_of
from tunesmith.data.version import text_digests
from tunesmith.recipe.specs.data import SplitSpec

LEDGER = "ledger"
DIGEST = "digest"
"""Column of a shard: the SHA-256 of what a row says, by which versions are made and rows compared."""


@dataclass(frozen=True)
class PartCounts:
    """Rows of a part by fate with reason, by split, and by the rule that changed them, with its places; its files."""

    fates: Counter[str]
    splits: Counter[str]
    changed: Counter[str]
    places: Counter[str]
    files: Mapping[str, str]
    """SHA-256 of what was written, by name in the folder."""


@dataclass(frozen=True)
class PartPlace:
    """Where a part stands among all: its number, and rows that were read before it, of all sources and of its own."""

    number: int
    source: str
    read_before: int
    read_before_of_source: int


def write_shards(folder: Path, split: SplitSpec, part: tuple[Path, PartPlace, PartDecision]) -> PartCounts:
    """Write the shards and the ledger of a part into `folder`, and count.

    They wait beside the parts until they are whole: a worker that was taken for dead may write the same file once more,
    perhaps when the folder is a corpus already. Errors: those of `check_part` and `write_atomic`.
    """
    source, place, decision = part
    check_part(source)
    rows, keys, stays = read_rows(source), read_marks(source).keys, decision.stays
    fates = _with_duplicates(read_fates(source), rows["row"].to_numpy(), decision)
    name = f"part-{place.number:05d}.parquet"
    number = pl.int_range(place.read_before, place.read_before + len(fates), dtype=pl.Int64)
    index = pl.col("index") + place.read_before_of_source
    origin = (number.alias("row"), pl.lit(place.source).alias("source"), index)
    fates = fates.select(*origin, "fate", "reason", "amount", "changes")
    files = {f"{LEDGER}/{name}": _write(fates, folder / LEDGER / name, source.parent)}
    whole = rows.with_columns(pl.col("row") + place.read_before, index)
    splits = np.where(stays, _splits(keys[:, 1], rows["group"], split), -1)
    counted: Counter[str] = Counter()
    for each, wanted in enumerate(SPLITS):
        chosen = whole.filter(pl.Series(splits == each))
        counted[wanted] = len(chosen)
        if len(chosen):
            digests = pl.Series(DIGEST, list(text_digests(chosen["text"])), dtype=pl.Binary)
            files[f"{wanted}/{name}"] = _write(chosen.with_columns(digests), folder / wanted / name, source.parent)
    labels = fates.select(pl.concat_str("fate", "reason", separator=": ").str.strip_suffix(": "))["fate"]
    return PartCounts(Counter(dict(labels.value_counts().iter_rows())), counted, *_changes(fates), files)


def _changes(fates: pl.DataFrame) -> tuple[Counter[str], Counter[str]]:
    """Rows and places that each rule changed."""
    told = fates.select("changes").explode("changes").drop_nulls().unnest("changes")
    by_rule = told.group_by("rule").agg(rows=pl.len(), places=pl.col("places").sum())
    rows, places = (Counter[str](dict(by_rule.select("rule", each).iter_rows())) for each in ("rows", "places"))
    return rows, places


def _write(table: pl.DataFrame, path: Path, room: Path) -> str:
    content = io.BytesIO()  # of a full disk polars says "invalid thrift", which helps nobody
    table.write_parquet(content, compression="lz4", statistics=False)
    return write_atomic(path, content.getbuffer(), room=room)


def _with_duplicates(fates: pl.DataFrame, rows: Rows, decision: PartDecision) -> pl.DataFrame:
    """The fates with those of rows (by their number in the part) that another one stands for."""
    gone = ~decision.stays
    fate = fates["fate"].to_numpy().astype(object)
    reason = fates["reason"].to_numpy().astype(object)
    amount = fates["amount"].to_numpy().copy()
    fate[rows[gone]] = np.where(decision.exact[gone], "merged", "dropped")
    reason[rows[gone]] = np.where(decision.exact[gone], EXACT, NEAR)
    amount[rows[gone]] = decision.partner[gone]
    return fates.with_columns(
        fate=pl.Series(fate, dtype=pl.String), reason=pl.Series(reason, dtype=pl.String), amount=pl.Series(amount)
    )


def _splits(keys: Hashes, groups: pl.Series, split: SplitSpec) -> NDArray[np.int64]:
    """The place in SPLITS of each row. [N]"""
    salt = np.uint64(derive_seed(split.seed, "split of a corpus"))
    drawn = mixed(keys ^ salt) >> np.uint64(1)
    if (groups != "").any():
        names = groups.unique()
        of_group = names.map_elements(lambda name: place_of(name, split.seed), return_dtype=pl.Int64)
        places = groups.replace_strict(names, of_group).to_numpy().astype(np.uint64)
        drawn = np.where((groups != "").to_numpy(), places, drawn)
    shares: Mapping[SplitName, float] = {"train": split.train, "validation": split.validation, "test": split.test}
    ends = np.cumsum([shares[name] for name in SPLITS])
    return np.minimum(np.searchsorted(ends, drawn / float(1 << 63), side="right"), len(SPLITS) - 1)
