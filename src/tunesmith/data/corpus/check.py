"""Is a finished corpus what it states: every byte, every row's fate, its version, and no row in two splits.

A file is read at a time; what is held of a row is its digest and the hash of its group, 40 bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import verify_folder
from tunesmith.core.ledger import STILL_USED
from tunesmith.core.types import SPLITS
from tunesmith.data.corpus.executors import Executor, InThreads
from tunesmith.data.corpus.shards import DIGEST, LEDGER
from tunesmith.data.corpus.stated import Stated, read_stated, shards_of
from tunesmith.data.version import text_digests, version_of_digests

PROVED = ("hashes", "ledger", "version", "no_row_twice")


def prove(folder: Path, executor: Executor | None = None) -> Stated:
    """Hold a corpus against all that it states, and say what that is.

    Errors: those of `verify_folder`, core.ledger_unbalanced, core.hash_differs, versions.version_differs, corpus.leak.
    """
    verify_folder(folder)
    stated = read_stated(folder)
    parts = (executor or InThreads()).map(partial(_part, folder), [path.name for path in shards_of(folder, LEDGER)])
    rows = pl.concat([pl.DataFrame(schema=_ROW), *parts])
    digests: dict[str, list[bytes]] = {
        split: rows.filter(pl.col("split") == split)[DIGEST].to_list() for split in SPLITS
    }
    version = version_of_digests(digests, stated.settings)
    if version != stated.version:
        path = str(folder)
        raise TunesmithError("versions.version_differs", path=path, stated=stated.version.id, found=version.id)
    _refuse_leaks(folder, rows)
    return stated


_ROW = {DIGEST: pl.Binary, "group": pl.UInt64, "split": pl.String}


def _part(folder: Path, name: str) -> pl.DataFrame:
    """What is held of the rows of a part, after a look at its ledger; `group` is null where a row has none."""
    paths = {split: folder / split / name for split in SPLITS}
    tables = {split: pl.read_parquet(path) for split, path in paths.items() if path.exists()}
    told = pl.read_parquet(folder / LEDGER / name, columns=["row", "fate"])
    kept = told.filter(pl.col("fate").is_in(list(STILL_USED)))["row"]
    _check_ledger(len(told), kept.to_list(), [row for table in tables.values() for row in table["row"]])
    found = [pl.DataFrame(schema=_ROW)]
    for split, table in tables.items():
        if list(text_digests(table["text"])) != table[DIGEST].to_list():
            raise TunesmithError("core.hash_differs", path=str(paths[split]))
        group = pl.when(pl.col("group") != "").then(pl.col("group").hash())
        found.append(table.select(DIGEST, group=group, split=pl.lit(split)))
    return pl.concat(found)


def _check_ledger(read: int, kept: Sequence[int], stored: Sequence[int]) -> None:
    missing, extra = len(set(kept) - set(stored)), len(stored) - len(set(stored) & set(kept))
    if missing or extra:
        raise TunesmithError("core.ledger_unbalanced", read=read, kept=len(kept), missing=missing, extra=extra)


def _refuse_leaks(folder: Path, rows: pl.DataFrame) -> None:
    """Errors: corpus.leak where the same words, or one group, stand in two splits."""
    for column in (DIGEST, "group"):
        splits = rows.drop_nulls(column).group_by(column).agg(pl.col("split").n_unique())
        leaks = splits.filter(pl.col("split") > 1)
        if len(leaks):
            raise TunesmithError("corpus.leak", path=str(folder), rows=len(leaks))
