"""The outcome of preparing: tables by split, the ledger, and what was noticed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SplitName
from tunesmith.data.formats.read import Note, SourceReport
from tunesmith.data.version import Version, version_of


@dataclass(frozen=True)
class Prepared:
    """Tables in the canonical schema by split, the ledger they agree with, sources as found, and notes.

    `old` are rows of older tasks, by the name of their table; `settings` are those that made the rows.
    """

    frames: Mapping[SplitName, pl.DataFrame]
    ledger: Ledger
    sources: tuple[SourceReport, ...]
    notes: tuple[Note, ...]
    old: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """All rows, by the name of their file: the splits first."""
        return {str(name): frame for tables in (self.frames, self.old) for name, frame in tables.items()}

    @cached_property
    def version(self) -> Version:
        """The version of the rows as they are now."""
        return version_of(self.tables, self.settings)
