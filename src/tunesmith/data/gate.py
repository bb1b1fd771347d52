"""The gate before a table that is learned from: rows that were made here pass what rows that were read have passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.data.content import Listed
from tunesmith.data.filters import drop_conflicting
from tunesmith.data.notes import Note
from tunesmith.data.tidy import Cleaner
from tunesmith.data.wall import Likeness, Wall


@dataclass(frozen=True)
class Admitted:
    """The made rows that stay, what is worth saying, and what the word lists found in them."""

    frame: pl.DataFrame
    notes: tuple[Note, ...] = ()
    listed: tuple[Listed, ...] = ()


@dataclass(frozen=True)
class Gate:
    """The rules of one table, and what it is held apart from.

    `asked` are rows that nothing may be learned from, by the name of their table.
    """

    name: str
    cleaner: Cleaner
    wall: Wall
    asked: Mapping[str, pl.DataFrame]
    likeness: Likeness
    ledger: Ledger

    def admit(self, made: pl.DataFrame, among: pl.DataFrame | None = None) -> Admitted:
        """The rows that every rule of the table lets in. Each that goes has its reason in the ledger.

        Args:
            among: the rows of the table that they come to; answers may not contradict theirs.
        """
        if made.is_empty():
            return Admitted(made)
        name, listed_before = f"{self.name}/made", len(self.cleaner.listed)
        made, notes = self.cleaner.apply(name, made)
        if among is not None:
            made = drop_conflicting(made, among, self.cleaner.spec.filter, self.ledger)
        made, kept_out = self.wall.without_benchmarks(name, made, self.likeness.meaning)
        apart, parted = self.wall.keep_alike_apart({name: made, **self.asked}, self.likeness, (name,))
        told = [each for each in (*notes, *kept_out, *parted) if each.facts.get("rows")]
        return Admitted(apart[name], tuple(told), tuple(self.cleaner.listed[listed_before:]))
