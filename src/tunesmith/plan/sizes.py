"""What a decoder costs: parameters, FLOPs a token and bytes, from the dimensions in its config.json.

Formulas (N = parameters of the linear layers of all blocks, H = vocabulary x hidden, s = length of a document that a
token sees on average, f = share of tokens that carry loss, a = attention FLOPs of a token in the forward pass):

    a(s) = 2 s d_q L          two products of 2 FLOPs a pair over s/2 earlier tokens (causal), d_q = heads x head size
    full fine-tuning          6 N + 6 H f + 3 a
    LoRA on all layers        4 N + 4 H f + 3 a + 6 N_adapter      (no gradient of frozen weights)
    checkpointed activations  + 2 N + a

Source of 6 N: Kaplan et al., Scaling Laws for Neural Language Models, arXiv 2001.08361, section 2.1 (2 N forward,
4 N backward); of the missing third for LoRA: Hu et al., arXiv 2106.09685, section 4.2. Activation bytes follow
Korthikanti et al., arXiv 2205.05198, section 4, for gated blocks whose attention matrix is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.specs.adapt import AdaptSpec, FullSpec, LoraSpec

BYTES_OF_DTYPE = {"bfloat16": 2, "float16": 2, "float32": 4}
_ADAM_BYTES = 16
"""A trained number in training: float32 master, gradient and the two moments of Adam."""
_LOGITS_AT_ONCE = 256
"""Positions whose logits stand in memory together (the chunk of the loss)."""
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})


@dataclass(frozen=True)
class ModelSize:
    """Dimensions of a decoder. `head` is H; `tied` says that input and output embedding are one matrix."""

    layers: int
    hidden: int
    query_width: int
    key_width: int
    inner: int
    vocabulary: int
    tied: bool

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every linear layer of one block, by name."""
        return {
            "q_proj": (self.hidden, self.query_width),
            "k_proj": (self.hidden, self.key_width),
            "v_proj": (self.hidden, self.key_width),
            "o_proj": (self.query_width, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    @property
    def block_parameters(self) -> int:
        """N: parameters of the linear layers of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears().values())

    @property
    def head(self) -> int:
        """H: parameters of the output embedding."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, norms included, biases not."""
        norms = self.hidden * (2 * self.layers + 1)
        return self.block_parameters + self.head * (1 if self.tied else 2) + norms


def size_from_config(config: Mapping[str, object]) -> ModelSize:
    """Dimensions from a config.json of a gated decoder (llama, qwen2, qwen3, mistral, gemma).

    Errors: plan.unknown_size when a dimension is missing.
    """

    def number(key: str, otherwise: int | None = None) -> int:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        if otherwise is None:
            raise TunesmithError("plan.unknown_size", key=key)
        return otherwise

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    head_size = number("head_dim", hidden // heads)
    return ModelSize(
        layers=number("num_hidden_layers"),
        hidden=hidden,
        query_width=heads * head_size,
        key_width=number("num_key_value_heads", heads) * head_size,
        inner=number("intermediate_size"),
        vocabulary=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def adapter_parameters(size: ModelSize, adapt: LoraSpec) -> int:
    """Parameters that LoRA adds: rank x (inputs + outputs) of every layer it is put on."""
    linears = size.linears()
    if adapt.target_modules == "all-linear":
        chosen = set(linears)
    else:
        chosen = set(_ATTENTION) if adapt.target_modules == "attention" else set(adapt.target_modules)
    pairs = (pair for name, pair in linears.items() if name in chosen)
    return size.layers * adapt.rank * sum(inputs + outputs for inputs, outputs in pairs)


def trained_parameters(size: ModelSize, adapt: AdaptSpec) -> int:
    """Parameters that move."""
    return size.parameters if isinstance(adapt, FullSpec) else adapter_parameters(size, adapt)


def flops_per_token(
    size: ModelSize, adapt: AdaptSpec, seen_length: float, loss_share: float, checkpointing: bool = False
) -> float:
    """FLOPs of forward and backward for one token, by the formulas above."""
    attention = 2 * seen_length * size.query_width * size.layers
    passes = 6 if isinstance(adapt, FullSpec) else 4
    flops = passes * (size.block_parameters + size.head * loss_share) + 3 * attention
    if isinstance(adapt, LoraSpec):
        flops += 6 * adapter_parameters(size, adapt)
    return flops + (2 * size.block_parameters + attention if checkpointing else 0)


def forward_flops_per_token(size: ModelSize, seen_length: float, loss_share: float) -> float:
    """FLOPs of a forward pass for one token, as in validation."""
    return 2 * (size.block_parameters + size.head * loss_share) + 2 * seen_length * size.query_width * size.layers


def memory_parts(
    size: ModelSize, adapt: AdaptSpec, tokens_at_once: int, loss_share: float, dtype: str, checkpointing: bool = False
) -> dict[str, int]:
    """Bytes by what holds them, at the peak of a step with `tokens_at_once` tokens in one micro-batch.

    `states` are gradients, float32 masters and Adam's moments of what trains.
    """
    wide = BYTES_OF_DTYPE[dtype]
    trained = trained_parameters(size, adapt)
    # a full float32 model is its own master
    own_master = 4 * trained if isinstance(adapt, FullSpec) and wide == 4 else 0
    per_layer = (22 * size.hidden + 6 * size.inner) * wide // 2
    if checkpointing:
        activations = tokens_at_once * (size.layers * size.hidden * wide + per_layer)
    else:
        activations = tokens_at_once * size.layers * per_layer
    positions = min(_LOGITS_AT_ONCE, max(1, round(tokens_at_once * loss_share)))
    return {
        "weights": size.parameters * wide,
        "states": trained * _ADAM_BYTES - own_master,
        "activations": activations,
        "logits": positions * size.vocabulary * (8 + wide),
    }
