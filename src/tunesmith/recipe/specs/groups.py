"""How fast each part moves, and from when."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.adapt import Part
from tunesmith.recipe.specs.base import MOST, Spec


class UnfreezeSpec(Spec):
    """Block after block begins to move, from the last one down (Howard and Ruder 2018, arXiv 1801.06146)."""

    blocks: int = Field(1, ge=1, le=1024, description="Last blocks that move at first, with all that lies above them.")
    every_steps: int | None = Field(None, ge=1, le=MOST, description="Steps after which one more block moves.")
    patience: int | None = Field(
        None, ge=1, le=MOST, description="Validations without a gain after which one more block moves."
    )

    @model_validator(mode="after")
    def _has_one_rule(self) -> Self:
        if (self.every_steps is None) == (self.patience is None):
            raise ValueError("unfreeze_rule")
        return self


class GroupsSpec(Spec):
    """Step sizes and weight decay by group of parameters; the learning rate is what the factors multiply."""

    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor of the step size from a block to the one below it; 0.95 to 0.65 are usual."
    )
    rates: dict[Part, float] = Field({}, description="Factors of the step size by part, such as {embedding: 0.1}.")
    loraplus_lr_ratio: float = Field(
        1.0, gt=0, le=1e6, description="Factor of the step size of LoRA's B (LoRA+, 2402.12354); 16 is usual."
    )
    no_decay: list[str] = Field([], description="Names of matrices without weight decay; * stands for anything.")
    unfreeze: UnfreezeSpec | None = Field(None, description="Blocks begin to move one after the other.")

    @model_validator(mode="after")
    def _rates_are_positive(self) -> Self:
        if any(not 0 < rate <= 1e6 for rate in self.rates.values()):
            raise ValueError("group_rates")
        return self
