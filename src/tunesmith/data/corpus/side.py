"""A finished corpus as one of two data sets that are compared: keys and ledger alone are read, no text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import verify_file
from tunesmith.core.types import SPLITS
from tunesmith.data.corpus.shards import DIGEST, LEDGER
from tunesmith.data.corpus.stated import VERSION, Stated, read_stated, shards_of, version_of_shards
from tunesmith.data.diff import FATES, PLACE
from tunesmith.data.version import Version

MOST_ROWS = 5_000_000
"""Rows of a corpus that are compared: their keys and those of the other side are held in memory."""


def side_of_corpus(folder: Path) -> CorpusSide:
    """A corpus to be compared. Errors: those of `verify_file`, corpus.too_many_rows, versions.version_differs."""
    verify_file(folder, VERSION)
    stated = read_stated(folder)
    rows = sum(stated.version.rows.values())
    if rows > MOST_ROWS:
        raise TunesmithError("corpus.too_many_rows", path=str(folder), rows=f"{rows:,}", most=f"{MOST_ROWS:,}")
    found = version_of_shards(folder, stated.settings)
    if found.id != stated.version.id:
        raise TunesmithError("versions.version_differs", path=str(folder), stated=stated.version.id, found=found.id)
    return CorpusSide(folder, stated)


@dataclass(frozen=True)
class CorpusSide:
    """As `Compared` says. Its rows are texts, and ask nothing beside what they say."""

    path: Path
    stated: Stated

    @property
    def name(self) -> str:
        """What it is called: its path."""
        return str(self.path)

    @property
    def version(self) -> Version:
        """The version of its rows."""
        return self.stated.version

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings that made its rows."""
        return self.stated.settings

    @property
    def split(self) -> bool:
        """Its tables are splits."""
        return True

    def keyed(self) -> pl.DataFrame:
        """As `Compared` says."""
        tables = [
            pl.read_parquet(path, columns=["row", "source", "index", DIGEST]).with_columns(table=pl.lit(name))
            for name in SPLITS
            for path in shards_of(self.path, name)
        ]
        asked = pl.lit(None, pl.String).alias("asked")
        return pl.concat(tables).select("row", "table", pl.col(DIGEST).alias("key"), "index", asked, file=self._file())

    def fates(self, rows: pl.DataFrame) -> pl.DataFrame:
        """As `Compared` says; a file of the ledger at a time."""
        told = [
            pl.read_parquet(path, columns=["source", "index", "fate", "reason"])
            .select(self._file().alias("file"), "index", "fate", "reason")
            .join(rows, on=PLACE, how="semi")
            for path in shards_of(self.path, LEDGER)
        ]
        return pl.concat([pl.DataFrame(schema=FATES), *told]).unique(PLACE, keep="last")

    def contents(self, rows: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        """As `Compared` says; only files that hold one of the rows are read."""
        wanted, found = pl.Series("row", list(rows), dtype=pl.Int64), dict[int, Mapping[str, object]]()
        for path in (path for name in SPLITS for path in shards_of(self.path, name)):
            held = pl.read_parquet(path, columns=["row"])["row"].is_in(wanted.implode())
            if held.any():
                for row in pl.read_parquet(path).filter(held).iter_rows(named=True):
                    found[row["row"]] = said_in(row)
        return found

    def _file(self) -> pl.Expr:
        return pl.col("source").replace(dict(self.stated.sources))


def said_in(row: Mapping[str, object]) -> dict[str, object]:
    """A row of a corpus as people read it: where it comes from and what it says."""
    return {"source": row["source"], "index": row["index"], "content": {"text": row["text"]}}


def rows_of(path: Path) -> int:
    """The rows of a stored file, which its end alone says."""
    return int(pq.read_metadata(path).num_rows)
