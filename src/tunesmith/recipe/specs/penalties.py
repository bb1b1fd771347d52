"""Penalties on parameters: terms of the loss that look at the weights and not at the rows."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.base import MOST, Spec
from tunesmith.recipe.specs.data import SourceSpec

LARGEST_WEIGHT = 1e12


class EwcSpec(Spec):
    """Elastic weight consolidation: what the old task needs moves least (Kirkpatrick et al. 2017, 1612.00796)."""

    weight: float = Field(
        gt=0,
        le=LARGEST_WEIGHT,
        description="Weight of the term; with 1, a nat lost on a token of the old rows counts as one of the new rows.",
    )
    sources: list[SourceSpec] = Field(min_length=1, description="Rows of the old task, read like those of data.")
    rows: int = Field(256, ge=1, le=MOST, description="Most rows drawn from them to measure what the old task needs.")
    labels: Literal["sampled", "observed"] = Field(
        "sampled",
        description="Answers that are looked at: the model's own draws (Fisher) or the rows' (empirical Fisher).",
    )


class PenaltiesSpec(Spec):
    """Terms that are added once a step, whatever the rows. None of them is on by itself."""

    ewc: EwcSpec | None = Field(None, description="Hold what an old task needs.")
    l2_sp: float | None = Field(
        None, gt=0, le=LARGEST_WEIGHT, description="Weight of half the squared way from the start values (1802.01483)."
    )
    l2: float | None = Field(
        None, gt=0, le=LARGEST_WEIGHT, description="Weight of half the squared numbers that train, of LoRA its A and B."
    )
    l1: float | None = Field(
        None, gt=0, le=LARGEST_WEIGHT, description="Weight of the absolute numbers that train, of LoRA its A and B."
    )

    router_balance: float | None = Field(
        None, gt=0, le=LARGEST_WEIGHT, description="Weight of the routers' balance loss (2101.03961); 0.01 is usual."
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if all(each is None for each in (self.ewc, self.l2_sp, self.l2, self.l1, self.router_balance)):
            raise ValueError("penalties_of_nothing")
        return self
