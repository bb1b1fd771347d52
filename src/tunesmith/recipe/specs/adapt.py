"""Axis 1: what is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec


class FullSpec(Spec):
    """Every parameter of the model moves."""

    kind: Literal["full"] = Field("full", description="Every parameter moves.")


class LoraSpec(Spec):
    """Low-rank additions to linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora"] = Field("lora", description="Low-rank additions to linear layers.")
    rank: int = Field(16, ge=1, le=1024, description="Rank of each addition; 8 to 16 to start with.")
    lora_alpha: float | None = Field(
        None, gt=0, le=1e6, description="Scale numerator, the addition counts alpha / rank; none is twice the rank."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of inputs of each addition dropped in training.")
    target_modules: Literal["all-linear", "attention"] | list[str] = Field(
        "all-linear",
        description="All linear layers of the blocks, only those of attention, or a list of names.",
    )


AdaptSpec = Annotated[FullSpec | LoraSpec, Field(discriminator="kind")]
