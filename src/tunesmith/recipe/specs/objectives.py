"""Axis 2: toward what the model is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.base import MOST, Spec
from tunesmith.recipe.specs.data import SourceSpec
from tunesmith.recipe.specs.hosted import HostedSpec

TARGET = "target"
"""What a stage wants with rows of a target domain; their table is named after it."""


class SupervisedSpec(Spec):
    """Cross-entropy on the tokens that the task marks."""

    kind: Literal["supervised"] = Field("supervised", description="Cross-entropy on the marked tokens.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of probability spread over all tokens.")


class DistillSpec(Spec):
    """A student learns from a teacher: its distribution over tokens, or its answers."""

    kind: Literal["distill"] = Field("distill", description="Learn from a teacher.")
    teacher: str = Field(min_length=1, description="Model name, folder or run; the model's name where it is hosted.")
    level: Literal["logits", "sequence"] = Field(
        "logits",
        description="Learn the teacher's distribution (1503.02531), or its answers to the prompts (1606.07947).",
    )
    temperature: float = Field(
        2.0, gt=0, le=1000, description="Logits of both are divided by it before they are compared (logits)."
    )
    alpha: float = Field(
        0.5, gt=0, le=1, description="Share of the teacher; the rows' own tokens get the rest (logits)."
    )
    top_k: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Most likely tokens kept once for all steps; none asks the teacher in each (logits).",
    )
    hosted: HostedSpec | None = Field(None, description="Where the teacher answers, if not here (sequence).")
    max_new_tokens: int = Field(256, ge=1, le=2**24, description="Longest answer of the teacher in tokens (sequence).")

    @model_validator(mode="after")
    def _fits_the_level(self) -> Self:
        others = ("temperature", "alpha", "top_k") if self.level == "sequence" else ("hosted", "max_new_tokens")
        fields = type(self).model_fields
        if any(getattr(self, name) != fields[name].default for name in others):
            raise ValueError("distill_level")
        return self


class MultitaskSpec(Spec):
    """Several tasks at once, one a source of data.sources: each has a loss, a weight and a share of the rows."""

    kind: Literal["multitask"] = Field("multitask", description="Cross-entropy task by task, one a source.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of probability spread over all tokens.")
    sampling_temperature: float = Field(
        1.0,
        ge=1,
        le=1e6,
        description="Tasks come in proportion to rows^(1/T): 1 by size, more evens them out (1910.10683).",
    )
    sampling_by: Literal["rows", "tokens"] = Field(
        "rows", description="What is evened out: the rows of the tasks, or their tokens (tokens^(1/T))."
    )
    weights: dict[str, float] = Field(
        {}, description="Weight of a task's loss by the name of its source; 1 if unstated."
    )
    task_embeddings: bool = Field(
        False, description="Learn a vector a task, added to the embedding of every token it reads (data.tasks)."
    )

    @model_validator(mode="after")
    def _weights_are_positive(self) -> Self:
        if any(not 0 < weight <= 1e6 for weight in self.weights.values()):
            raise ValueError("task_weights")
        return self

    @model_validator(mode="after")
    def _evens_out(self) -> Self:
        if self.sampling_by == "tokens" and self.sampling_temperature == 1:
            raise ValueError("sampling_by")  # every row comes once, whatever is counted
        return self

    def rows_by_task(self, sizes: Mapping[str, int], tokens: Mapping[str, int]) -> dict[str, int]:
        """Rows of each task in an epoch; together as many as there are, each task at least one.

        Args:
            sizes: rows of each task.
            tokens: of all its rows together.
        """
        measured = tokens if self.sampling_by == "tokens" else sizes
        total = sum(sizes.values())
        # a share of what is measured, over how much of it a row of the task has
        powers = {
            name: measured[name] ** (1 / self.sampling_temperature) * sizes[name] / measured[name] for name in sizes
        }
        wished = {name: total * power / sum(powers.values()) for name, power in powers.items()}
        rows = {name: max(1, math.floor(wish)) for name, wish in wished.items()}
        # What rounding left over goes where most is missing; what the least of one row took comes from the largest.
        while sum(rows.values()) < total:
            rows[max(rows, key=lambda name: wished[name] - rows[name])] += 1
        while sum(rows.values()) > total:
            rows[max(rows, key=lambda name: rows[name])] -= 1
        return rows


class ReversalSpec(Spec):
    """A small network guesses the domain from the features; below it its gradient is reversed (1505.07818)."""

    max_lambda: float = Field(
        0.02,
        gt=0,
        le=1e6,
        description="Factor of the reversed gradient towards which the schedule rises; 1 in the paper, too much for "
        "pretrained encoders.",
    )
    gamma: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="How fast it rises: max_lambda (2 / (1 + exp(-gamma p)) - 1) after a share p of the steps.",
    )
    hidden_size: int = Field(128, ge=1, le=65_536, description="Width of the inner layer of the domain classifier.")
    learning_rate: float = Field(
        1e-3, gt=0, le=1000, description="Peak step size of the domain classifier; it follows the stage's schedule."
    )


class MmdSpec(Spec):
    """Maximum mean discrepancy of the features of a step by Gaussian kernels of several widths (1502.02791)."""

    weight: float = Field(1.0, gt=0, le=1e12, description="Weight of the squared discrepancy in the loss.")
    scale: float | None = Field(
        None,
        gt=0,
        le=1e30,
        description="Squared distance by which those of features are divided; none takes the mean within a step.",
    )
    bandwidths: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(
        [0.25, 0.5, 1.0, 2.0, 4.0],
        min_length=1,
        max_length=64,
        description="Widths of the kernels in multiples of that distance; their mean counts.",
    )


class AdversarialSpec(Spec):
    """Labelled rows of one domain, unlabelled rows of another, and features that do not tell which is which."""

    kind: Literal["adversarial"] = Field("adversarial", description="Adapt to a domain without labels.")
    target_sources: list[SourceSpec] = Field(
        min_length=1,
        description="Texts of the target domain, read and cleaned like those of data; no label is read.",
    )
    target_share: float = Field(
        0.5, gt=0, lt=1, description="Share of the rows of every step that are of the target domain."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of probability spread over all classes.")
    reversal: ReversalSpec | None = Field(None, description="A domain classifier with gradient reversal; none: none.")
    kl: float | None = Field(
        None,
        gt=0,
        le=1e12,
        description="Weight of KL(target, source) of Gaussians of the features, a number of them (2106.07780).",
    )
    mmd: MmdSpec | None = Field(None, description="Discrepancy of the features by kernels; none: none.")

    @model_validator(mode="after")
    def _brings_them_together(self) -> Self:
        if self.reversal is None and self.kl is None and self.mmd is None:
            raise ValueError("domains_apart")
        return self

    @property
    def has_distance(self) -> bool:
        """Whether a figure of the features alone says how far the domains lie apart."""
        return self.kl is not None or self.mmd is not None

    def target_rows(self, window: int) -> int:
        """Target rows of a step of so many rows; at least one row of either domain stays where there is room."""
        return max(0, min(window - 1, max(1, round(window * self.target_share))))


ObjectiveSpec = Annotated[SupervisedSpec | DistillSpec | MultitaskSpec | AdversarialSpec, Field(discriminator="kind")]
"""How one stage is trained."""
