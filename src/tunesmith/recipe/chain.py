"""Stages in a row: which rows each learns from, and what each starts from.

A stage starts from what the stage before it ended with, its best change, in one of two ways that are both exact:

    continued    both have the same `adapt` table and the same head: the very change is trained on, on the same base
    merged       anything else: the change is merged into what it stood on, in the number format that training reads,
                 and the stage starts from that model as if it were the base

The first stage starts from the base. What a stage stands on is what its own change is measured against: by penalties,
by the check that nothing frozen has moved, and by a merge.
"""

from __future__ import annotations

from typing import Literal

from tunesmith.core.seed import derive_seed
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.adapt import AdaptSpec, ExpertsSpec, LoraSpec
from tunesmith.recipe.specs.data import DataSpec, StageDataSpec

Start = Literal["base", "continued", "merged"]


def data_of(recipe: Recipe, stage: StageSpec) -> DataSpec | StageDataSpec:
    """The rows that a stage learns from: its own, else the run's."""
    return stage.data or recipe.data


def before(recipe: Recipe, stage: StageSpec) -> StageSpec | None:
    """The stage before; None before the first."""
    place = [each.name for each in recipe.stages].index(stage.name)
    return recipe.stages[place - 1] if place else None


def after(recipe: Recipe, stage: StageSpec) -> StageSpec | None:
    """The stage behind; None behind the last."""
    return next((each for each in recipe.stages if before(recipe, each) == stage), None)


def start_of(recipe: Recipe, stage: StageSpec) -> Start:
    """What a stage starts from."""
    earlier = before(recipe, stage)
    if earlier is None:
        return "base"
    same_change = _shape(earlier.adapt) == _shape(stage.adapt) and not _chosen_by_rows(stage.adapt)
    return "continued" if same_change and has_same_head(recipe, earlier, stage) else "merged"


def is_continued(recipe: Recipe, stage: StageSpec) -> bool:
    """Whether the stage behind trains this one's change on."""
    later = after(recipe, stage)
    return later is not None and start_of(recipe, later) == "continued"


def is_merged(recipe: Recipe, stage: StageSpec) -> bool:
    """Whether this stage's change is merged for the stage behind."""
    later = after(recipe, stage)
    return later is not None and start_of(recipe, later) == "merged"


def merged_before(recipe: Recipe, stage: StageSpec) -> StageSpec | None:
    """The stage whose merged model a stage stands on; None where it stands on the base itself."""
    earlier = before(recipe, stage)
    if earlier is None or start_of(recipe, stage) == "merged":
        return earlier
    return merged_before(recipe, earlier)


def has_same_head(recipe: Recipe, one: StageSpec, other: StageSpec) -> bool:
    """Whether two stages answer alike: in words, or with the same labels of the same rows."""
    first, second = data_of(recipe, one), data_of(recipe, other)
    return first == second or first.task == second.task == "chat"


def own_rows(recipe: Recipe) -> list[StageDataSpec]:
    """The rows that stages have of their own."""
    return [stage.data for stage in recipe.stages if stage.data is not None]


def learning_runs_rows(recipe: Recipe) -> list[StageSpec]:
    """The stages that learn from the run's own rows."""
    return [stage for stage in recipe.stages if stage.data is None]


def with_own_seed(recipe: Recipe, stage: StageSpec) -> StageSpec:
    """The stage with a seed of its own: the first keeps the stated one, and is the run that it would be alone."""
    if before(recipe, stage) is None:
        return stage
    seed = derive_seed(stage.train.seed, f"stage {stage.name}")
    return stage.model_copy(update={"train": stage.train.model_copy(update={"seed": seed})})


def _shape(adapt: AdaptSpec) -> AdaptSpec:
    """The adaptation with its open choice settled, so that one that is left out equals one that is stated."""
    if isinstance(adapt, LoraSpec) and adapt.lora_alpha is None:
        return adapt.model_copy(update={"lora_alpha": 2.0 * adapt.rank})
    return adapt


def _chosen_by_rows(adapt: AdaptSpec) -> bool:
    """Whether each stage's rows choose anew what moves."""
    return isinstance(adapt, ExpertsSpec) and adapt.most_used is not None
