"""What is published, and within which limits."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec

ShipFormat = Literal["safetensors", "gguf-f16", "gguf-q8_0", "adapter"]

MERGED: tuple[ShipFormat, ...] = ("safetensors", "gguf-q8_0")
"""What is published of a change that becomes part of the base's weights, where the recipe leaves it open."""
WITHOUT_GGUF: tuple[ShipFormat, ...] = ("safetensors",)
"""The same of a model with a task head, which no other format holds."""
BESIDE: tuple[ShipFormat, ...] = ("adapter",)
"""The same of one that cannot."""


class ParityLimits(Spec):
    """How far an artefact may be from the model that was evaluated."""

    unstated: ClassVar[frozenset[str]] = frozenset({"near_ties_apart"})
    chats: int = Field(
        50, ge=1, le=100_000, description="Chats on which token ids must be identical and answers are compared."
    )
    top1_safetensors: float = Field(
        0.999, ge=0, le=1, description="Share of equal most likely tokens, merged weights or an adapter on its base."
    )
    top1_gguf_f16: float = Field(0.995, ge=0, le=1, description="The same for GGUF F16, judged in llama.cpp.")
    top1_gguf_q8_0: float = Field(0.98, ge=0, le=1, description="The same for GGUF Q8_0, judged in llama.cpp.")
    metric_points: float = Field(1.0, ge=0, le=100, description="Largest change of the task metric, in points of 100.")
    near_ties_apart: bool | None = Field(
        None,
        description="Hold metric_points against the change without answers that differ at near ties of the evaluated"
        " model alone; none does not. It lets more through.",
    )


class ShipSpec(Spec):
    """Formats and limits."""

    formats: list[ShipFormat] | None = Field(
        None,
        min_length=1,
        description="Formats to publish; none: safetensors and gguf-q8_0, or adapter for a change that cannot be merged"
        " into its base.",
    )
    parity: ParityLimits = Field(ParityLimits(), description="Limits of the parity gate.")
