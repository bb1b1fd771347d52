"""Axis 2: toward what the model is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.base import MOST, Spec


class SupervisedSpec(Spec):
    """Cross-entropy on the tokens that the task marks."""

    kind: Literal["supervised"] = Field("supervised", description="Cross-entropy on the marked tokens.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of probability spread over all tokens.")


class HostedSpec(Spec):
    """A teacher behind an address that speaks OpenAI's chat completions."""

    base_url: str = Field(
        pattern=r"^https?://\S+$", description="Address up to and with /v1; never followed elsewhere."
    )
    key_variable: str = Field(
        "", pattern=r"^[A-Za-z0-9_]*$", description="Environment variable that holds the key; none sends no key."
    )
    timeout_seconds: float = Field(60.0, gt=0, le=86_400, description="Longest wait for one answer.")
    tries: int = Field(3, ge=1, le=100, description="Attempts at one answer before its row is dropped.")
    concurrency: int = Field(4, ge=1, le=256, description="Prompts asked at the same time.")


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


ObjectiveSpec = Annotated[SupervisedSpec | DistillSpec | MultitaskSpec, Field(discriminator="kind")]
"""How one stage is trained."""
