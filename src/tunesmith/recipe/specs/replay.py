"""Rows of older tasks that are trained again beside the new ones."""

from __future__ import annotations

from pydantic import Field

from tunesmith.recipe.specs.base import Spec
from tunesmith.recipe.specs.data import SourceSpec


class ReplaySpec(Spec):
    """Every step holds a share of old rows (rehearsal, Robins 1995)."""

    sources: list[SourceSpec] = Field(min_length=1, description="Old rows, read and cleaned like those of data.")
    share: float = Field(0.2, gt=0, lt=1, description="Share of the rows of every step that are old ones.")

    def old_rows(self, window: int) -> int:
        """Old rows of a step of so many rows: at least one, and at least one new row stays where there is room."""
        return max(0, min(window - 1, max(1, round(window * self.share))))
