"""In which order rows are learned."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.recipe.specs.base import MOST, Spec


class CurriculumSpec(Spec):
    """The easy rows first, the hard ones last (curriculum learning, Bengio et al. 2009)."""

    by: Literal["length", "loss"] = Field(
        "length",
        description="What makes a row hard: its tokens, or the mean loss of its learned tokens before the first step.",
    )
    epochs: int = Field(1, ge=1, le=MOST, description="First passes in that order; rows of later ones are shuffled.")
