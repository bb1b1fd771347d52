"""How two data sets differ, row by row, and why: the ledgers say what became of each row on the other side.

Rows are the same where they say the same. Of the rest, two belong together that are one row of one file, or that ask
the same; what is left was added or removed. Sources are known by the hash of their files: a renamed file is no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from tunesmith.core.ledger import STILL_USED, Entry, Ledger
from tunesmith.data.keys import prompt_key
from tunesmith.data.version import Version, row_digests, version_of

Kind = Literal["added", "removed", "changed", "moved"]
KINDS: tuple[Kind, ...] = ("added", "removed", "changed", "moved")
_MADE = "made "


@dataclass(frozen=True)
class Side:
    """One of two data sets that are compared.

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


def compare(before: Side, after: Side) -> Difference:
    """Every row of two data sets that is not the same in both, with the reason."""
    one, other = _rows(before), _rows(after)
    with_tables = "" not in before.tables and "" not in after.tables
    on = ["key", "nth"]
    both = one.join(other, on=on, how="inner", suffix="_after")
    moved = both.filter(pl.col("table") != pl.col("table_after")) if with_tables else both.clear()
    changes = [RowChange("moved", *places, "other_split") for places in _places(moved)]
    gone, come = one.join(other, on=on, how="anti"), other.join(one, on=on, how="anti")
    for keys, reason in ((["file", "index"], "read_otherwise"), (["asked", "nth_asked"], "same_prompt")):
        pairs = _pairs(gone, come, keys)
        changes += [RowChange("changed", *places, reason) for places in _places(pairs)]
        gone, come = (
            gone.join(pairs, on="row", how="anti"),
            come.filter(~pl.col("row").is_in(pairs["row_after"].implode())),
        )
    changes += [*_unpaired("removed", gone, after), *_unpaired("added", come, before)]
    return Difference(len(both) - len(moved), tuple(changes))


def _rows(side: Side) -> pl.DataFrame:
    """Every row: the key of what it says, its file, its place there, and what it asks, numbered among its equals."""
    made = [entry.row for entry in side.ledger.entries() if entry.parent is not None]
    tables = [
        frame.select("row", "source", "index", asked=prompt_key()).with_columns(
            key=pl.Series([each.hex() for each in row_digests(frame)], dtype=pl.String), table=pl.lit(name)
        )
        for name, frame in side.tables.items()
    ]
    # A made row has its parent's place: it is no row of that file, and pairs with none by it.
    is_made = pl.col("row").is_in(pl.Series(made, dtype=pl.Int64).implode())
    file = pl.col("source").replace(dict(side.hashes))
    found = pl.concat(tables).with_columns(file=pl.when(is_made).then(pl.format(_MADE + "{}", "row")).otherwise(file))
    return found.sort("row").with_columns(
        nth=pl.col("row").cum_count().over("key"), nth_asked=pl.col("row").cum_count().over("asked")
    )


def _pairs(gone: pl.DataFrame, come: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Rows of both sides with equal keys, each in one pair at most."""
    unique = [frame.unique(keys, keep="first", maintain_order=True) for frame in (gone, come)]
    return unique[0].join(unique[1], on=keys, how="inner", suffix="_after", maintain_order="left")


def _places(pairs: pl.DataFrame) -> list[tuple[int, int, str, str]]:
    return pairs.select("row", "row_after", "table", "table_after").rows()


def _unpaired(kind: Kind, rows: pl.DataFrame, other: Side) -> list[RowChange]:
    """Rows that only one side has; `other` is the one that lacks them, and its ledger may say why."""
    fates = {
        (other.hashes.get(entry.source, entry.source), entry.index): entry
        for entry in other.ledger.entries()
        if entry.parent is None
    }
    found: list[RowChange] = []
    for row, table, file, index in rows.select("row", "table", "file", "index").iter_rows():
        reason, detail = _why(fates.get((file, index)), file)
        places: tuple[int, int, str, str] = (row, -1, table, "") if kind == "removed" else (-1, row, "", table)
        found.append(RowChange(kind, *places, reason, detail))
    return found


def _why(entry: Entry | None, file: str) -> tuple[str, str]:
    """Why the side that lacks a row does not have it, from the fate that it gave the same row of the same file."""
    if file.startswith(_MADE):
        return "made", ""
    if entry is None:
        return "other_file", ""
    return (entry.fate, entry.reason) if entry.fate not in STILL_USED else ("read_otherwise", "")
