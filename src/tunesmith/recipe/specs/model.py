"""Which pretrained model is adapted, and in which number format."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tunesmith.recipe.specs.base import Spec

Quantize = Literal["none", "nf4", "int8"]
Dropout = Literal["own"] | Annotated[float, Field(ge=0, lt=1)]


class ModelSpec(Spec):
    """The base model."""

    unstated: ClassVar[frozenset[str]] = frozenset({"dropout"})
    base: str = Field(description="Bundled name, local folder, GGUF file, hub id org/name or modelscope:org/name.")
    revision: str | None = Field(
        None, description="Commit of the hub repository; none pins the newest at the first run."
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Number format of the weights; auto takes bfloat16 where a probe finds it faster."
    )
    quantize: Quantize = Field(
        "none",
        description="How the frozen linear layers of the blocks are held while adapters train (QLoRA, 2305.14314): nf4 "
        "in 4.1 bits a number, int8 in 8; none leaves them.",
    )
    offline: bool = Field(False, description="Never ask a hub; every file must be on this machine.")
    dropout: Dropout | None = Field(
        None,
        description="Share that dropout layers of a model with a task head drop in training: own takes the model's, "
        "none switches them off.",
    )
