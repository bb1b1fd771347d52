"""Rows of a stage beside those of its run: what holds between them, and what only one of them asks for."""

from __future__ import annotations

from tunesmith.data.notes import Note
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.data import CleanSpec, DataSpec


def nearest_of(spec: DataSpec, stage: StageSpec) -> float | None:
    """The similarity from which on a stage's row is too near to one that the evaluation asks: the lower one stated."""
    rules = (spec.clean, *((stage.data.clean,) if stage.data is not None else ()))
    return min((each.near_duplicates for each in rules if each.near_duplicates is not None), default=None)


def unlike_the_run(spec: DataSpec, stage: StageSpec) -> list[Note]:
    """Cleaning that the run's rows get and a stage's own rows do not: a stage's settings stand for themselves."""
    if stage.data is None:
        return []
    names = [name for name in CleanSpec.model_fields if _asked(spec.clean, name) and not _asked(stage.data.clean, name)]
    return [Note("data.stage_unlike_run", {"stage": stage.name, "settings": ", ".join(names)})] if names else []


def _asked(clean: CleanSpec, name: str) -> bool:
    return getattr(clean, name) not in (None, False)
