"""Rows of a stage beside those of its run: what only one of them asks for."""

from __future__ import annotations

from tunesmith.data.notes import Note
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.data import CleanSpec, DataSpec


def unlike_the_run(spec: DataSpec, stage: StageSpec) -> list[Note]:
    """Cleaning that the run's rows get and a stage's own rows do not: a stage's settings stand for themselves."""
    if stage.data is None:
        return []
    names = [name for name in CleanSpec.model_fields if _asked(spec.clean, name) and not _asked(stage.data.clean, name)]
    return [Note("data.stage_unlike_run", {"stage": stage.name, "settings": ", ".join(names)})] if names else []


def _asked(clean: CleanSpec, name: str) -> bool:
    return getattr(clean, name) not in (None, False)
