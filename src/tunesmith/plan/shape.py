"""What a model's config.json says about its size: counts of weights without loading one.

Shape letters: d hidden width, f width of the feed-forward part, q and k total width of the query and of the key
heads, L layers, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.specs.adapt import FullSpec, LoraSpec

_NEEDED = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
_BIASED = frozenset({"qwen2"})
"""Architectures whose query, key and value layers always have a bias."""
_NORMED_HEADS = frozenset({"qwen3", "gemma3_text"})
"""Architectures that normalise every query and key head."""
_FOUR_NORMS = frozenset({"gemma2", "gemma3_text", "glm4"})
"""Architectures with four norms in a block instead of two."""


@dataclass(frozen=True)
class ModelSize:
    """A decoder of the llama family: embedding, L blocks of attention and gated feed-forward, norm, head.

    `parameters` counts everything once (a tied head is the embedding); `linear_parameters` is N, the linear layers of
    the blocks; `head_parameters` is H = V x d.
    """

    architecture: str
    layers: int
    hidden: int
    intermediate: int
    query_width: int
    key_value_width: int
    vocabulary: int
    linear_parameters: int
    head_parameters: int
    parameters: int

    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each linear layer of a block, by its usual name."""
        d, f, q, k = self.hidden, self.intermediate, self.query_width, self.key_value_width
        return {
            "q_proj": (d, q), "k_proj": (d, k), "v_proj": (d, k), "o_proj": (q, d),
            "gate_proj": (d, f), "up_proj": (d, f), "down_proj": (f, d),
        }  # fmt: skip


def model_size(config: Mapping[str, object]) -> ModelSize:
    """Size of a model from the numbers of its config.json.

    Errors: plan.unknown_shape where a number is missing or is none, as in other families of models.
    """
    architecture = str(config.get("model_type", ""))
    layers, d, f, heads, vocabulary = (_number(config, name, architecture) for name in _NEEDED)
    key_heads = _number(config, "num_key_value_heads", architecture, heads)
    width = _number(config, "head_dim", architecture, d // heads)
    q, k = heads * width, key_heads * width
    linear = layers * (2 * d * q + 2 * d * k + 3 * d * f)
    biased = architecture in _BIASED or bool(config.get("attention_bias"))
    in_block = (4 if architecture in _FOUR_NORMS else 2) * d
    in_block += q + 2 * k if biased else 0
    in_block += 2 * width if architecture in _NORMED_HEADS else 0
    head = vocabulary * d
    embeddings = head if config.get("tie_word_embeddings", False) else 2 * head
    total = linear + layers * in_block + d + embeddings
    return ModelSize(architecture, layers, d, f, q, k, vocabulary, linear, head, total)


def _number(config: Mapping[str, object], name: str, architecture: str, default: int | None = None) -> int:
    value = config.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise TunesmithError("plan.unknown_shape", architecture=architecture or "?", field=name)
    return value


_TARGETS: Mapping[str, Sequence[str]] = {
    "all-linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
}


def trained_parameters(model: ModelSize, adapt: FullSpec | LoraSpec) -> int:
    """Weights that move. LoRA of rank r on a layer of i inputs and o outputs adds r (i + o) (Hu et al. 2021)."""
    if isinstance(adapt, FullSpec):
        return model.parameters
    shapes = model.linear_shapes()
    named = adapt.target_modules
    targets = _TARGETS[named] if isinstance(named, str) else named
    return model.layers * adapt.rank * sum(sum(shapes[name]) for name in targets if name in shapes)
