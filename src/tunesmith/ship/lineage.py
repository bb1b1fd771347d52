"""What a published model of several stages goes back to: the run's base, and each stage in the field's own words."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.evaluate.method import method_of
from tunesmith.models.load import BaseFolder
from tunesmith.recipe.recipe import Recipe


@dataclass(frozen=True)
class Lineage:
    """The base that people have, and what was done to it, stage by stage."""

    base: BaseFolder
    stages: tuple[str, ...]

    @classmethod
    def of(cls, recipe: Recipe, base: BaseFolder) -> Lineage | None:
        """The lineage of a run's last model; None where a single stage made it."""
        if len(recipe.stages) == 1:
            return None
        return cls(base, tuple(f"{stage.name} ({method_of(recipe, stage)})" for stage in recipe.stages))
