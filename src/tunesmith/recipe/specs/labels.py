"""What is done about labels before rows are split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec


class LabelsSpec(Spec):
    """Names of labels, and labels that are probably wrong."""

    names: dict[str, str] = Field(
        {}, description="A label as a file has it to the one that is meant, such as {正面: positive}."
    )
    suspected: Literal["ignore", "report", "drop"] = Field(
        "report",
        description="Labels that a simple model, trained on other rows, contradicts: named in "
        "suspected_labels.jsonl, or "
        "their rows dropped.",
    )
    at_least: float = Field(
        0.9, ge=0.5, le=1, description="Probability of another label from which a label is suspected."
    )
    folds: int = Field(5, ge=2, le=20, description="Parts of the rows, each judged by a model of the others.")
