"""Refuse stages in a row that could not start from what the one before ended with, or could not be published."""

from __future__ import annotations

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.chain import before, learning_runs_rows, merged_before, start_of
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.objectives import DistillSpec


def check_chain(recipe: Recipe) -> None:
    """Hold the stages of a recipe against each other.

    Errors: compat.rows_unlearned, compat.last_task, compat.stage_unmergeable, compat.stage_quantized,
    compat.stage_beside, compat.stage_adapter, compat.stage_lengths, compat.stage_answers.
    """
    _check_rows(recipe)
    for stage in recipe.stages:
        _check_start(recipe, stage)
    _check_published(recipe)


def _check_rows(recipe: Recipe) -> None:
    """The run's rows are learned by somebody, in one form, and the last stage gives the answers that they ask for."""
    sharing = learning_runs_rows(recipe)
    last = recipe.stages[-1]
    if not sharing:
        raise TunesmithError("compat.rows_unlearned")
    if last.data is not None and not last.data.task == recipe.data.task == "chat":
        raise TunesmithError("compat.last_task", stage=last.name, task=last.data.task, wanted=recipe.data.task)
    lengths = {stage.train.max_length for stage in sharing}
    if len(lengths) > 1:
        raise TunesmithError("compat.stage_lengths", lengths=", ".join(map(str, sorted(lengths))))
    for stage in sharing if len(sharing) > 1 else ():
        if isinstance(stage.objective, DistillSpec) and stage.objective.level == "sequence":
            raise TunesmithError("compat.stage_answers", stage=stage.name)


def _check_start(recipe: Recipe, stage: StageSpec) -> None:
    earlier = before(recipe, stage)
    if earlier is None or start_of(recipe, stage) != "merged":
        return
    if not earlier.adapt.mergeable:
        kind = earlier.adapt.kind
        raise TunesmithError("compat.stage_unmergeable", stage=stage.name, earlier=earlier.name, kind=kind)
    if recipe.model.quantize != "none":
        quantize = recipe.model.quantize
        raise TunesmithError("compat.stage_quantized", stage=stage.name, earlier=earlier.name, quantize=quantize)


def _check_published(recipe: Recipe) -> None:
    """What stands beside a base can only stand beside one that people have."""
    last = recipe.stages[-1]
    merged = merged_before(recipe, last)
    if merged is None:
        return
    if not last.adapt.mergeable:
        raise TunesmithError("compat.stage_beside", stage=last.name, kind=last.adapt.kind, earlier=merged.name)
    if "adapter" in recipe.formats:
        raise TunesmithError("compat.stage_adapter", stage=last.name, earlier=merged.name)
