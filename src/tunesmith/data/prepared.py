"""The outcome of preparing: tables by split, the ledger, and what was noticed on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SplitName
from tunesmith.data.content import Listed
from tunesmith.data.formats.read import Note, SourceReport, rows_by_licence
from tunesmith.data.gate import Gate
from tunesmith.data.labels.suspect import Suspicion
from tunesmith.data.media.content import MediaPlaces
from tunesmith.data.pii.apply import PersonalData
from tunesmith.data.version import Version, version_of


@dataclass(frozen=True)
class Prepared:
    """Tables in the canonical schema by split, the ledger they agree with, sources as found, and notes.

    `beside` are rows that one stage alone names, by the name of their table: its own, and those of older tasks.
    `settings` are those that made the rows. `personal` are searches for personal data (the run's, and those of stages
    with rules of their own), `listed` is what the user's word lists found, `suspected` rows whose label is probably
    wrong. `places` are where pictures and sounds lie. `gates` let rows that are made later into the tables that are
    learned from.
    """

    frames: Mapping[SplitName, pl.DataFrame]
    ledger: Ledger
    sources: tuple[SourceReport, ...]
    notes: tuple[Note, ...]
    beside: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    personal: tuple[PersonalData, ...] = ()
    listed: tuple[Listed, ...] = ()
    suspected: tuple[tuple[int, Suspicion], ...] = ()
    places: MediaPlaces = field(default_factory=lambda: MediaPlaces({}))
    gates: Mapping[str, Gate] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """All rows, by the name of their file: the splits first."""
        return {str(name): frame for tables in (self.frames, self.beside) for name, frame in tables.items()}

    @property
    def all_notes(self) -> tuple[Note, ...]:
        """Of every source, and of the rows together."""
        return (*(note for source in self.sources for note in source.notes), *self.notes)

    def rows_by_licence(self) -> dict[str, dict[str, int]]:
        """Rows of every source by the licence that each has; of sources of one name together."""
        found: dict[str, Counter[str]] = {}
        for each in self.sources:
            found.setdefault(each.name, Counter()).update(rows_by_licence(each))
        return {name: dict(sorted(rows.items())) for name, rows in found.items()}

    @cached_property
    def version(self) -> Version:
        """The version of the rows as they are now."""
        return version_of(self.tables, self.settings)

    def with_table(self, name: str, frame: pl.DataFrame) -> Prepared:
        """The same with one table replaced."""
        frames = {split: frame if split == name else each for split, each in self.frames.items()}
        return replace(self, frames=frames, beside={**self.beside, **({} if name in frames else {name: frame})})

    def admitting(self, name: str, made: pl.DataFrame) -> Prepared:
        """The same with a table of rows that were made, as far as the table's gate lets them in."""
        admitted = self.gates[name].admit(made)
        found = self.with_table(name, admitted.frame)
        return replace(found, notes=(*self.notes, *admitted.notes), listed=(*self.listed, *admitted.listed))

    def keeping(self, rows: Collection[int]) -> Prepared:
        """The same with these rows alone."""
        frames = {split: each.filter(each["row"].is_in(rows)) for split, each in self.frames.items()}
        beside = {name: each.filter(each["row"].is_in(rows)) for name, each in self.beside.items()}
        return replace(self, frames=frames, beside=beside)
