"""Axis 2: toward what the model is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec


class SupervisedSpec(Spec):
    """Cross-entropy on the tokens that the task marks."""

    kind: Literal["supervised"] = Field("supervised", description="Cross-entropy on the marked tokens.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of probability spread over all tokens.")


ObjectiveSpec = SupervisedSpec
