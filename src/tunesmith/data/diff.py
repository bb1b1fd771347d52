"""How two data sets differ, row by row, and why: the ledgers say what became of each row on the other side.

Rows are the same where they say the same. Of the rest, two belong together that are one row of one file, or that ask
the same; what is left was added or removed. Sources are known by the hash of their files: a renamed file is no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import polars as pl

from tunesmith.core.ledger import STILL_USED, Ledger
from tunesmith.data.keys import prompt_key
from tunesmith.data.readable import readable
from tunesmith.data.version import Version, row_digests, version_of

Kind = Literal["added", "removed", "changed", "moved"]
KINDS: tuple[Kind, ...] = ("added", "removed", "changed", "moved")
PLACE = ["file", "index"]
FATES = {"file": pl.String, "index": pl.Int64, "fate": pl.String, "reason": pl.String}
_MADE = "made "


class Compared(Protocol):
    """What two data sets are compared by, wherever their rows lie."""

    @property
    def name(self) -> str:
        """What it is called: its path."""

    @property
    def version(self) -> Version:
        """The version of its rows."""

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings that made its rows."""

    @property
    def split(self) -> bool:
        """Whether its tables are splits, so that a row can move from one to another."""

    def keyed(self) -> pl.DataFrame:
        """Every row: `row`, its number; `table`; `key` of what it says; `file` and `index`, where it was read; `asked`,
        what it asks, or null where that is all that it says.
        """

    def fates(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`file`, `index`, `fate`, `reason` of the rows that it knows among some, which are given by the first two."""

    def contents(self, rows: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        """`source`, `index` and `content` of the rows of some numbers, which are no row's where they are negative."""


@dataclass(frozen=True)
class Side:
    """One of two data sets that are compared, in memory.

    `tables` by name ("" where rows are of no split), `hashes` of the files of each source by the source's name,
    `settings` that made the rows.
    """

    name: str
    tables: Mapping[str, pl.DataFrame]
    ledger: Ledger
    hashes: Mapping[str, str]
    settings: Mapping[str, object]

    @property
    def version(self) -> Version:
        """The version of its rows."""
        return version_of(self.tables, self.settings)

    @property
    def split(self) -> bool:
        """Whether its tables are splits."""
        return "" not in self.tables

    def keyed(self) -> pl.DataFrame:
        """As `Compared` says."""
        made = [entry.row for entry in self.ledger.entries() if entry.parent is not None]
        tables = [
            frame.select("row", "source", "index", asked=prompt_key()).with_columns(
                key=pl.Series(list(row_digests(frame)), dtype=pl.Binary), table=pl.lit(name)
            )
            for name, frame in self.tables.items()
        ]
        # A made row has its parent's place: it is no row of that file, and pairs with none by it.
        is_made = pl.col("row").is_in(pl.Series(made, dtype=pl.Int64).implode())
        file = pl.col("source").replace(dict(self.hashes))
        file = pl.when(is_made).then(pl.format(_MADE + "{}", "row")).otherwise(file)
        return pl.concat(tables).select("row", "table", "key", "index", "asked", file=file)

    def fates(self, rows: pl.DataFrame) -> pl.DataFrame:
        """As `Compared` says."""
        known = [
            (self.hashes.get(entry.source, entry.source), entry.index, entry.fate, entry.reason)
            for entry in self.ledger.entries()
            if entry.parent is None
        ]
        found = pl.DataFrame(known, schema=FATES, orient="row")
        return found.join(rows, on=PLACE, how="semi").unique(PLACE, keep="last")

    def contents(self, rows: Collection[int]) -> Mapping[int, Mapping[str, object]]:
        """As `Compared` says."""
        wanted = pl.col("row").is_in(pl.Series(list(rows), dtype=pl.Int64).implode())
        return {
            row["row"]: {"source": row["source"], "index": row["index"], "content": readable(row)}
            for frame in self.tables.values()
            for row in frame.filter(wanted).iter_rows(named=True)
        }


@dataclass(frozen=True)
class RowChange:
    """What happened to a row: its number and table on either side (-1 and "" where it is not), and why, as a code.

    `detail` is the ledger's reason where the row went there.
    """

    kind: Kind
    row_before: int
    row_after: int
    table_before: str
    table_after: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Difference:
    """Rows that are on both sides in one table, and the changes of all others."""

    same: int
    changes: tuple[RowChange, ...]

    def counts(self) -> dict[tuple[Kind, str, str], int]:
        """Changes by kind, reason and the ledger's own reason, the most frequent of a kind first."""
        found = Counter((each.kind, each.reason, each.detail) for each in self.changes)
        return dict(sorted(found.items(), key=lambda item: (KINDS.index(item[0][0]), -item[1], item[0])))


def compare(before: Compared, after: Compared) -> Difference:
    """Every row of two data sets that is not the same in both, with the reason."""
    one, other = _numbered(before.keyed()), _numbered(after.keyed())
    with_tables = before.split and after.split
    on = ["key", "nth"]
    both = one.join(other, on=on, how="inner", suffix="_after")
    moved = both.filter(pl.col("table") != pl.col("table_after")) if with_tables else both.clear()
    changes = [RowChange("moved", *places, "other_split") for places in _places(moved)]
    gone, come = one.join(other, on=on, how="anti"), other.join(one, on=on, how="anti")
    for keys, reason in ((PLACE, "read_otherwise"), (["asked", "nth_asked"], "same_prompt")):
        pairs = _pairs(gone, come, keys)
        changes += [RowChange("changed", *places, reason) for places in _places(pairs)]
        gone, come = (
            gone.join(pairs, on="row", how="anti"),
            come.filter(~pl.col("row").is_in(pairs["row_after"].implode())),
        )
    changes += [*_unpaired("removed", gone, after), *_unpaired("added", come, before)]
    return Difference(len(both) - len(moved), tuple(changes))


def _numbered(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with their number among those that say, and among those that ask, the same."""
    return rows.sort("row").with_columns(
        nth=pl.col("row").cum_count().over("key"), nth_asked=pl.col("row").cum_count().over("asked")
    )


def _pairs(gone: pl.DataFrame, come: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Rows of both sides with equal keys, each in one pair at most."""
    unique = [frame.unique(keys, keep="first", maintain_order=True) for frame in (gone, come)]
    return unique[0].join(unique[1], on=keys, how="inner", suffix="_after", maintain_order="left")


def _places(pairs: pl.DataFrame) -> list[tuple[int, int, str, str]]:
    return pairs.select("row", "row_after", "table", "table_after").rows()


def _unpaired(kind: Kind, rows: pl.DataFrame, other: Compared) -> list[RowChange]:
    """Rows that only one side has; `other` is the one that lacks them, and its ledger may say why."""
    told = rows.join(other.fates(rows.select(PLACE)), on=PLACE, how="left", maintain_order="left")
    found: list[RowChange] = []
    for row, table, file, fate, why in told.select("row", "table", "file", "fate", "reason").iter_rows():
        reason, detail = _why(fate, why, file)
        places: tuple[int, int, str, str] = (row, -1, table, "") if kind == "removed" else (-1, row, "", table)
        found.append(RowChange(kind, *places, reason, detail))
    return found


def _why(fate: str | None, reason: str, file: str) -> tuple[str, str]:
    """Why the side that lacks a row does not have it, from the fate that it gave the same row of the same file."""
    if file.startswith(_MADE):
        return "made", ""
    if fate is None:
        return "other_file", ""
    return (fate, reason) if fate not in STILL_USED else ("read_otherwise", "")
