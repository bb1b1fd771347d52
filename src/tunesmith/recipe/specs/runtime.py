"""Axis 3: where one fit runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec


class RuntimeSpec(Spec):
    """Devices and processes."""

    kind: Literal["local", "distributed"] = Field(
        "local", description="One process, or one rank of a torchrun-style launch (DDP)."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto takes a GPU when there is one.")
    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="CPU threads of this process; none takes all cores. Part of the result's bytes.",
    )
