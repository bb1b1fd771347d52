"""Axis 1: what is trained."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.base import Spec
from tunesmith.recipe.specs.beginnings import PrefixSpec, PromptSpec, PTuningSpec


class FullSpec(Spec):
    """Every parameter of the model moves."""

    mergeable: ClassVar[bool] = True
    """Whether the change can become part of the base's own weights."""
    kind: Literal["full"] = Field("full", description="Every parameter moves.")


class LoraSpec(Spec):
    """Low-rank additions to linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    mergeable: ClassVar[bool] = True
    kind: Literal["lora"] = Field("lora", description="Low-rank additions to linear layers.")
    rank: int = Field(16, ge=1, le=1024, description="Rank of each addition; 8 to 16 to start with.")
    lora_alpha: float | None = Field(
        None, gt=0, le=1e6, description="Scale numerator, the addition counts alpha / rank; none is twice the rank."
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of inputs of each addition dropped in training.")
    target_modules: Literal["all-linear", "attention", "mlp"] | Annotated[list[str], Field(min_length=1)] = Field(
        "all-linear",
        description="All linear layers of the blocks, only those of attention or mlp, or a list of names.",
    )
    first_layer: int | None = Field(
        None, ge=-1024, le=1024, description="First block with additions; -1 is the last. None puts them on all blocks."
    )
    use_rslora: bool = Field(False, description="Count the addition alpha / sqrt(rank), for large ranks (2312.03732).")
    use_dora: bool = Field(
        False, description="Train the length of every output's weights beside their turn (2402.09353)."
    )
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora"] = Field(
        "default",
        description="First values: an addition of zero, or the base's main directions (2404.02948, 2406.01775).",
    )

    @property
    def out_of_the_base(self) -> bool:
        """Whether it begins with directions that it takes out of the base's weights."""
        return self.init_lora_weights in ("pissa", "olora")


Part = Literal["attention", "mlp", "norm", "embedding", "head", "bias", "experts", "router"]


class SubsetSpec(Spec):
    """Some of the model's own parameters move: the last blocks, named parts, or biases alone (BitFit, 2106.10199)."""

    mergeable: ClassVar[bool] = True
    kind: Literal["subset"] = Field("subset", description="Some of the model's own parameters move.")
    parts: list[Part] = Field([], description="Parts that move; none stands for all. bias alone is BitFit.")
    first_layer: int | None = Field(
        None, ge=-1024, le=1024, description="First block that moves; -1 is the last. Blocks below it stay frozen."
    )
    parameters: list[str] = Field([], description="Names of further parameters that move; * stands for anything.")

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not self.parts and self.first_layer is None and not self.parameters:
            raise ValueError("subset_of_nothing")
        return self

    @property
    def only_vectors(self) -> bool:
        """Whether nothing but biases and norms is named."""
        return bool(self.parts) and set(self.parts) <= {"bias", "norm"} and not self.parameters

    def moves(self, name: str, parts: frozenset[str], layer: int | None, first: int) -> bool:
        """Whether a parameter of the model moves.

        Its part and its block must both fit, or its name a pattern. The embedding and its norm lie below all blocks:
        where a first block is stated they stay, unless the embedding, or the head that it may be, is named.

        Args:
            name: as the model has it.
            parts: that it belongs to.
            layer: number of its block, None outside.
            first: the first block that may move, counted from 0.
        """
        if any(fnmatchcase(name, pattern) for pattern in self.parameters):
            return True
        if not self.parts and self.first_layer is None:
            return False
        wanted = not self.parts or bool(parts & set(self.parts))
        if layer is not None:
            return wanted and layer >= first
        is_above = first == 0 or "embedding" not in parts
        return wanted and (is_above or bool({"embedding", "head"} & set(self.parts)))


class BottleneckSpec(Spec):
    """Small networks inside each block (Houlsby et al. 2019, 1902.00751), published beside their base."""

    mergeable: ClassVar[bool] = False
    kind: Literal["bottleneck"] = Field("bottleneck", description="Small networks inside each block.")
    size: int = Field(64, ge=1, le=65_536, description="Width of their middle; 16 to 256 are usual.")
    places: Literal["houlsby", "pfeiffer", "parallel"] = Field(
        "pfeiffer",
        description="houlsby: after attention and MLP; pfeiffer: after the MLP (2005.00247); parallel: beside it"
        " (2110.04366).",
    )
    non_linearity: Literal["relu", "gelu", "silu"] = Field("relu", description="What bends their middle.")
    scale: float | None = Field(None, gt=0, le=1e6, description="What they count with; none is 1, and 4 for parallel.")

    @property
    def counts(self) -> float:
        """The scale, as stated or as its place has it: 4 beside the MLP (He et al. 2021, section 4.5)."""
        return self.scale if self.scale is not None else 4.0 if self.places == "parallel" else 1.0


class ExpertsSpec(Spec):
    """Some or all experts of a model that has them, and its routers if wanted; everything else is frozen."""

    mergeable: ClassVar[bool] = True
    kind: Literal["experts"] = Field("experts", description="Experts of a model that has them.")
    experts: Literal["all"] | list[int] = Field(
        "all", description="Experts that move, by number, in every block that has them; all by itself."
    )
    most_used: int | None = Field(
        None, ge=1, le=2**14, description="So many of each block's experts move: those most used on the training rows."
    )
    router: bool = Field(False, description="Whether the routers move too; groups.rates has `router` for their rate.")

    @model_validator(mode="after")
    def _names_experts(self) -> Self:
        listed = self.experts if isinstance(self.experts, list) else None
        if listed is not None and (not listed or len(set(listed)) < len(listed) or min(listed) < 0):
            raise ValueError("experts_list")
        if listed is not None and self.most_used is not None:
            raise ValueError("experts_twice")
        return self


class LoraExpertsSpec(Spec):
    """LoRA experts on each MLP of a dense model, with a router (LoRAMoE, 2312.09979), published beside their base."""

    mergeable: ClassVar[bool] = False
    kind: Literal["lora-experts"] = Field("lora-experts", description="LoRA experts on each MLP, with a router.")
    new_experts: int = Field(
        4, ge=0, le=256, description="Experts that are made; with `start` those that it gains, none unless stated."
    )
    top_k: int | None = Field(None, ge=1, le=256, description="Experts that a token uses; none is 2, or as in `start`.")
    rank: int | None = Field(
        None, ge=1, le=1024, description="Rank of each expert's additions; none is 8, or as in `start`."
    )
    lora_alpha: float | None = Field(
        None, gt=0, le=1e6, description="Scale numerator, alpha / rank; none is twice the rank, or as in `start`."
    )
    start: str | None = Field(
        None, description="Folder of saved LoRA experts to go on from; those that are not named keep their bytes."
    )
    update: list[int] = Field([], description="Experts of `start` that move.")
    remove: list[int] = Field([], description="Experts of `start` that are left out.")

    @model_validator(mode="before")
    @classmethod
    def _grows_only_if_told(cls, values: object) -> object:
        """Whoever updates one of some experts has not asked for more of them."""
        if isinstance(values, dict) and values.get("start") is not None:
            return {"new_experts": 0, **values}
        return values

    @model_validator(mode="after")
    def _moves_something(self) -> Self:
        if self.start is None and (self.update or self.remove):
            raise ValueError("experts_without_start")
        if self.new_experts == 0 and not self.update:
            raise ValueError("experts_of_nothing")
        if self.start is None and (self.top_k or 0) > self.new_experts:
            raise ValueError("experts_too_few")
        if any(expert < 0 for expert in (*self.update, *self.remove)):
            raise ValueError("experts_list_of_start")
        if set(self.update) & set(self.remove):
            raise ValueError("experts_removed")
        return self


AdaptSpec = Annotated[
    FullSpec
    | SubsetSpec
    | LoraSpec
    | BottleneckSpec
    | ExpertsSpec
    | LoraExpertsSpec
    | PromptSpec
    | PTuningSpec
    | PrefixSpec,
    Field(discriminator="kind"),
]
