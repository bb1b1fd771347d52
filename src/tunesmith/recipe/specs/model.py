"""Which pretrained model is adapted, and in which number format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec


class ModelSpec(Spec):
    """The base model."""

    base: str = Field(description="Bundled name, local folder, GGUF file, hub id org/name or modelscope:org/name.")
    revision: str | None = Field(
        None, description="Commit of the hub repository; none pins the newest at the first run."
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Number format of the weights; auto takes bfloat16 where a probe finds it faster."
    )
    offline: bool = Field(False, description="Never ask a hub; every file must be on this machine.")
