"""How the tuned model is compared with the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from tunesmith.recipe.specs.base import MOST, Spec
from tunesmith.recipe.specs.data import ClassRows

ChatMetric = Literal["json_exact", "json_valid", "rouge_l", "bleu_4", "exact_match"]
ClassMetric = Literal["accuracy", "macro_f1", "micro_f1", "entity_f1", "token_accuracy"]

METRICS_OF_ROWS: Mapping[ClassRows, tuple[ClassMetric, ...]] = {
    "text_class": ("accuracy", "macro_f1"),
    "multi_label": ("micro_f1", "macro_f1", "accuracy"),
    "token_class": ("entity_f1", "token_accuracy"),
}
"""What one of several tasks is measured by, the decisive figure first. Of single labels micro F1 is the accuracy."""


class EvaluateSpec(Spec):
    """Baselines, metrics and limits of the evaluation."""

    examples: int = Field(
        3, ge=0, le=16, description="Examples shown in the prompt of the second baseline; 0 leaves it out."
    )
    metrics: list[ChatMetric | ClassMetric] = Field(
        ["exact_match", "rouge_l", "bleu_4"],
        min_length=1,
        description="Metrics; the first decides blind comparisons. Of classes, unless stated: accuracy (micro_f1 of "
        "several) and macro_f1, of tokens entity_f1.",
    )
    max_rows: int | None = Field(
        None, ge=1, le=MOST, description="Test rows used, drawn with the split's seed; none takes all."
    )
    batch_size: int = Field(32, ge=1, le=65_536, description="Prompts answered together.")
    max_new_tokens: int = Field(128, ge=1, le=2**24, description="Longest answer in tokens.")
    machine_cost_per_hour: float = Field(
        0.0, ge=0, le=1e9, description="Price of this machine in currency units an hour, for the cost line."
    )
    forgetting: list[str] = Field(
        [], description="Files or folders of questions with choices; what is lost of them against the base is told."
    )
    show_examples: bool = Field(False, description="Print a few test rows with their answers on the release card.")

    def metrics_of(self, rows: ClassRows) -> list[ClassMetric]:
        """Those of the metrics that rows of a kind are measured by, the decisive one first."""
        return [name for name in METRICS_OF_ROWS[rows] if name in self.metrics]
