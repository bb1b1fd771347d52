"""The lock: a recipe whose open choices are settled on this machine, once for the whole run."""

from __future__ import annotations

from tunesmith.core.process import available_cores
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.adapt import LoraSpec
from tunesmith.runtime.local import choose_device
from tunesmith.train.optim import default_learning_rate
from tunesmith.train.probe import faster_dtype


def settled(recipe: Recipe, revision: str) -> Recipe:
    """The recipe with every open choice decided, from the device to the formats, and the base's commit pinned.

    Errors: runtime.no_device.
    """
    device = choose_device(recipe.runtime.device)
    dtype = recipe.model.dtype if recipe.model.dtype != "auto" else faster_dtype(device)
    threads = recipe.runtime.threads or available_cores()
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"dtype": dtype, "revision": revision or recipe.model.revision}),
            "runtime": recipe.runtime.model_copy(update={"device": device.type, "threads": threads}),
            "stages": [_settled_stage(stage) for stage in recipe.stages],
            "ship": recipe.ship.model_copy(update={"formats": recipe.formats}),
        }
    )


def _settled_stage(stage: StageSpec) -> StageSpec:
    rate = stage.train.learning_rate or default_learning_rate(stage.adapt)
    adapt = stage.adapt
    if isinstance(adapt, LoraSpec) and adapt.lora_alpha is None:
        adapt = adapt.model_copy(update={"lora_alpha": 2.0 * adapt.rank})
    return stage.model_copy(update={"adapt": adapt, "train": stage.train.model_copy(update={"learning_rate": rate})})
