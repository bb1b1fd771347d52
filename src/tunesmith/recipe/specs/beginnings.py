"""Axis 1: what is trained, where it stands before every row and the model stays as it is. Names as in PEFT."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.base import Spec

_LONGEST = 4096
_WIDEST = 65_536


class PromptSpec(Spec):
    """Learned embeddings before every row (Lester et al. 2021, arXiv 2104.08691)."""

    mergeable: ClassVar[bool] = False
    kind: Literal["prompt"] = Field("prompt", description="Learned embeddings before every row.")
    num_virtual_tokens: int = Field(
        20, ge=1, le=_LONGEST, description="How many places stand before every row; 5 to 100 are usual."
    )
    prompt_tuning_init: Literal["random", "text", "sample_vocab"] = Field(
        "sample_vocab",
        description="First values: drawn, those of a text, or those of tokens drawn from the vocabulary.",
    )
    prompt_tuning_init_text: str | None = Field(
        None, min_length=1, max_length=100_000, description="The text, cut or repeated to the number of virtual tokens."
    )

    @model_validator(mode="after")
    def _has_a_text_where_one_is_used(self) -> Self:
        if (self.prompt_tuning_init == "text") != (self.prompt_tuning_init_text is not None):
            raise ValueError("prompt_text")
        return self

    @property
    def has_network(self) -> bool:
        """Whether a network gives the numbers while they train."""
        return False


class PTuningSpec(Spec):
    """Learned embeddings before every row that come out of a small network while they train (arXiv 2103.10385)."""

    mergeable: ClassVar[bool] = False
    kind: Literal["p-tuning"] = Field("p-tuning", description="Learned embeddings that a small network gives.")
    num_virtual_tokens: int = Field(
        20, ge=1, le=_LONGEST, description="How many places stand before every row; 5 to 100 are usual."
    )
    encoder_reparameterization_type: Literal["mlp", "lstm"] = Field(
        "mlp", description="The network: three linear layers, or a bidirectional LSTM and two."
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, le=_WIDEST, description="Width of the network's inner layers; none is that of the model."
    )
    encoder_num_layers: int | None = Field(None, ge=1, le=16, description="Layers of the LSTM; none is 2.")

    @model_validator(mode="after")
    def _layers_are_of_an_lstm(self) -> Self:
        if self.encoder_num_layers is not None and self.encoder_reparameterization_type != "lstm":
            raise ValueError("mlp_layers")
        return self

    @property
    def has_network(self) -> bool:
        """Whether a network gives the numbers while they train."""
        return True


class PrefixSpec(Spec):
    """Learned keys and values before every row in every layer (arXiv 2101.00190); unprojected it is P-Tuning v2."""

    mergeable: ClassVar[bool] = False
    kind: Literal["prefix"] = Field("prefix", description="Learned keys and values before every row, in every layer.")
    num_virtual_tokens: int = Field(
        20, ge=1, le=_LONGEST, description="How many places stand before every row; 5 to 200 are usual."
    )
    prefix_projection: bool = Field(
        False, description="Let a small network give them while they train; without it they train themselves."
    )
    encoder_hidden_size: int | None = Field(
        None, ge=1, le=_WIDEST, description="Width of the network's inner layer; none is that of the keys."
    )

    @model_validator(mode="after")
    def _width_is_of_a_network(self) -> Self:
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError("width_without_projection")
        return self

    @property
    def has_network(self) -> bool:
        """Whether a network gives the numbers while they train."""
        return self.prefix_projection


BeginningSpec = PromptSpec | PTuningSpec | PrefixSpec
