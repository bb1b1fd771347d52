"""What a model costs: parameters, FLOPs a token and bytes, from the dimensions in its config.json.

Formulas (N = parameters of the linear layers of all blocks, H = vocabulary x hidden, s = length of a document that a
token sees on average, f = share of tokens that carry loss, a = attention FLOPs of a token in the forward pass):

    a(s) = 2 s d_q L          two products of 2 FLOPs a pair over s/2 earlier tokens (causal), d_q = heads x head size
    full fine-tuning          6 N + 6 H f + 3 a
    LoRA on all layers        4 N + 4 H f + 3 a + 6 N_adapter      (no gradient of frozen weights)
    bottleneck adapters       the same, with N_adapter of the bottlenecks
    LoRA experts              the same as of LoRA, every expert computed for every token
    experts                   the same, with 2 instead of 6 times those that move and a token meets; N is what it meets
    a subset                  2 N + 2 N_above + 2 N_trained + 4 H f (6 where the head trains) + a + 2 a_above
                              (above: blocks from the first that trains on; below it nothing flows back)
    checkpointed activations  + 2 N + a
    kept activations          - 2 N_below - a_below                (of blocks below all that ever moves, where there is
                              more than one epoch: they are run once for every row, before the first step)
    a learned beginning       4 N + 4 H f + 3 a(s + 2 P)           (P places, all of which every token sees), and once a
                              micro-batch that of P tokens without loss, where they are read, and 6 P N_network
    an encoder                a counts twice (a token sees all s of its document); H is classes x hidden where a head
                              gives classes

Bytes of the n numbers of a linear layer with O outputs that is held in codes (models/quantized.py):

    nf4     n / 2 + b + 4 ceil(b / 256) + 4,   b = ceil(n / 64) blocks
    int8    n + 4 O

Source of 6 N: Kaplan et al., Scaling Laws for Neural Language Models, arXiv 2001.08361, section 2.1 (2 N forward,
4 N backward); of the missing third for LoRA: Hu et al., arXiv 2106.09685, section 4.2. Activation bytes follow
Korthikanti et al., arXiv 2205.05198, section 4, for gated blocks whose attention matrix is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from tunesmith.core.errors import TunesmithError
from tunesmith.plan.expert_sizes import NO_EXPERTS, Experts, experts_from_config, lora_expert_parameters, moving_experts
from tunesmith.recipe.specs.adapt import (
    AdaptSpec,
    BottleneckSpec,
    ExpertsSpec,
    FullSpec,
    LoraExpertsSpec,
    LoraSpec,
    SubsetSpec,
)
from tunesmith.recipe.specs.beginnings import BeginningSpec, PrefixSpec, PTuningSpec
from tunesmith.recipe.specs.model import Quantize

NF4_BLOCK, NF4_GROUP = 64, 256
"""Numbers that share a magnitude, magnitudes that share a scale; a test keeps them equal to the layer's own."""
BYTES_OF_DTYPE = {"bfloat16": 2, "float16": 2, "float32": 4}
_ADAM_BYTES = 16
"""A trained number in training: float32 master, gradient and the two moments of Adam."""
_ENCODERS = ("bert", "roberta", "xlm-roberta")
"""As in models/sites.py, which needs torch; a test keeps them equal."""
_SPLIT = (*_ENCODERS, "llama", "mistral", "qwen2", "qwen3")
"""As in models/halves.py."""
_LOGITS_AT_ONCE = 256
"""Positions whose logits stand in memory together (the chunk of the loss)."""
_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "attention.output.dense"})


@dataclass(frozen=True)
class ModelSize:
    """Dimensions of a model. `head` is H; `tied` says that input and output embedding are one matrix.

    `quantize` says how the linear layers of its blocks are held while it trains; `positions` are the places of a
    learned position embedding, `classes` those of a task head, if there is one, and `of_tokens` says that it gives them
    to tokens; `task_vectors` are the tasks that have a vector besides. `splits` says that its blocks can be run in two
    halves, `drops` that its dropout layers are on. `body` is what the names of an encoder begin with. Of a decoder,
    `attention_biases` are how many of its query, key, value and output layers have one, and `head_norm` the width of
    the norms of queries and keys.
    """

    layers: int
    hidden: int
    query_width: int
    key_width: int
    inner: int
    vocabulary: int
    tied: bool
    quantize: Quantize = "none"
    experts: Experts = NO_EXPERTS
    is_encoder: bool = False
    positions: int = 0
    classes: int = 0
    of_tokens: bool = False
    task_vectors: int = 0
    splits: bool = False
    drops: bool = False
    body: str = ""
    attention_biases: int = 0
    mlp_biases: bool = False
    head_norm: int = 0

    def with_dropout(self) -> ModelSize:
        """The same with its dropout layers on: where those of blocks are, no activations are kept between epochs."""
        return replace(self, splits=False, drops=True) if self.is_encoder else self

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every linear layer of one block, by name; of experts only what stands beside them."""
        if self.is_encoder:
            square = (self.hidden, self.hidden)
            return {
                **dict.fromkeys(("query", "key", "value", "attention.output.dense"), square),
                "intermediate.dense": (self.hidden, self.inner),
                "output.dense": (self.inner, self.hidden),
            }
        attention = {
            "q_proj": (self.hidden, self.query_width),
            "k_proj": (self.hidden, self.key_width),
            "v_proj": (self.hidden, self.key_width),
            "o_proj": (self.query_width, self.hidden),
        }
        mlp = {
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }
        beside_experts = {"shared_expert_gate": (self.hidden, 1)} if self.experts.count else {}
        return {**attention, **beside_experts, **mlp} if self.inner else attention

    @property
    def block_parameters(self) -> int:
        """N: parameters of the blocks that a token meets, norms apart."""
        linears = sum(inputs * outputs for inputs, outputs in self.linears().values())
        return self.layers * (linears + self.experts.met(self.hidden))

    @property
    def head(self) -> int:
        """H: parameters of the matrix that makes scores of hidden states."""
        return (self.classes or self.vocabulary) * self.hidden

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding."""
        return (self.vocabulary + self.positions) * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; of an encoder with those of its task head."""
        return sum(each.numbers for each in _weights(self))

    def attention_flops(self, seen_length: float) -> float:
        """a: FLOPs of a token's attention in the forward pass."""
        return (4 if self.is_encoder else 2) * seen_length * self.query_width * self.layers


def size_from_config(
    config: Mapping[str, object],
    quantize: Quantize = "none",
    classes: int = 0,
    of_tokens: bool = False,
    task_vectors: int = 0,
) -> ModelSize:
    """Dimensions from a config.json of a gated decoder (llama, qwen2, qwen3, mistral, gemma, and those with experts) or
    of a BERT.

    Args:
        quantize: how the linear layers of its blocks are held while it trains.
        classes: of a task head; 0 where the output embedding is the head.
        of_tokens: whether that head gives classes to tokens.
        task_vectors: how many tasks have a vector of their own.

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
    kind = config.get("model_type")
    is_encoder = kind in _ENCODERS
    has_bias = bool(config.get("attention_bias", False))
    experts, beside_experts = experts_from_config(config)
    return ModelSize(
        layers=number("num_hidden_layers"),
        hidden=hidden,
        query_width=heads * head_size,
        key_width=number("num_key_value_heads", heads) * head_size,
        inner=beside_experts if experts.count else number("intermediate_size"),
        vocabulary=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
        quantize=quantize,
        experts=experts,
        is_encoder=is_encoder,
        positions=number("max_position_embeddings") + number("type_vocab_size", 2) if is_encoder else 0,
        classes=classes,
        of_tokens=of_tokens,
        task_vectors=task_vectors,
        splits=kind in _SPLIT,
        body=("bert" if kind == "bert" else "roberta") if is_encoder else "",
        attention_biases=3 if kind in ("qwen2", "qwen2_moe") else 4 if has_bias else 0,
        mlp_biases=bool(config.get("mlp_bias", False)),
        head_norm=head_size if kind in ("qwen3", "qwen3_moe") else 0,
    )


def held_bytes(inputs: int, outputs: int, quantize: Quantize, dtype: str) -> int:
    """Bytes of the weight of one linear layer as it is held."""
    numbers = inputs * outputs
    if quantize == "int8":
        return numbers + 4 * outputs
    if quantize == "nf4":
        blocks = math.ceil(numbers / NF4_BLOCK)
        return math.ceil(numbers / 2) + blocks + 4 * math.ceil(blocks / NF4_GROUP) + 4
    return numbers * BYTES_OF_DTYPE[dtype]


def weight_bytes(size: ModelSize, dtype: str) -> int:
    """Bytes of all weights, and of the one weight in codes that stands dense at a time: the largest."""
    linears = size.linears().values()
    held = size.layers * sum(held_bytes(*pair, size.quantize, dtype) for pair in linears)
    dense = max(inputs * outputs for inputs, outputs in linears) if size.quantize != "none" else 0
    return held + (size.parameters - size.block_parameters + dense) * BYTES_OF_DTYPE[dtype]


def adapter_parameters(size: ModelSize, adapt: LoraSpec) -> int:
    """Parameters that LoRA adds: rank x (inputs + outputs) of every layer it is put on."""
    pairs = _lora_layers(size, adapt)
    return _lora_blocks(size, adapt) * adapt.rank * sum(inputs + outputs for inputs, outputs in pairs)


def _lora_blocks(size: ModelSize, adapt: LoraSpec) -> int:
    """Blocks that have additions: all, or those from the first on."""
    return size.layers - (adapt.first_layer or 0) % size.layers


def adapted_numbers(size: ModelSize, adapt: LoraSpec) -> int:
    """Numbers of the frozen layers that LoRA is put on."""
    return _lora_blocks(size, adapt) * sum(inputs * outputs for inputs, outputs in _lora_layers(size, adapt))


def beginning_parameters(size: ModelSize, adapt: BeginningSpec) -> int:
    """Parameters of a learned beginning: of its places, and of the network that gives them while they train."""
    network = sum((inputs + 1) * outputs for inputs, outputs in _network(size, adapt))
    if not isinstance(adapt, PrefixSpec):
        return adapt.num_virtual_tokens * size.hidden + network
    numbers = 1 if adapt.prefix_projection else 2 * size.layers
    return adapt.num_virtual_tokens * numbers * size.key_width + network


def _network(size: ModelSize, adapt: BeginningSpec) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers, all with a bias, that give a beginning while it trains (PEFT's).

    A layer of an LSTM is four: in both directions from its input and from its own past, to four gates.
    """
    if isinstance(adapt, PrefixSpec):
        inner = adapt.encoder_hidden_size or size.key_width
        sizes = [size.key_width, inner, 2 * size.layers * size.key_width]
        return list(pairwise(sizes)) if adapt.prefix_projection else []
    if not isinstance(adapt, PTuningSpec):
        return []
    width, inner = size.hidden, adapt.encoder_hidden_size or size.hidden
    if adapt.encoder_reparameterization_type == "mlp":
        return list(pairwise([width, inner, inner, width]))
    inputs = [width, *[2 * inner] * ((adapt.encoder_num_layers or 2) - 1)]
    recurrent = [(each, 4 * inner) for of_layer in inputs for each in (of_layer, inner) * 2]
    return [*recurrent, *pairwise([2 * inner, 2 * inner, width])]


def bottleneck_parameters(size: ModelSize, adapt: BottleneckSpec) -> int:
    """Parameters of two matrices and two biases in one place of every block, or in two."""
    places = 2 if adapt.places == "houlsby" else 1
    return size.layers * places * (2 * size.hidden * adapt.size + adapt.size + size.hidden)


def _lora_layers(size: ModelSize, adapt: LoraSpec) -> list[tuple[int, int]]:
    """Inputs and outputs of the layers of one block that LoRA is put on."""
    linears = size.linears()
    named = {"all-linear": set(linears), "attention": set(_ATTENTION), "mlp": set(linears) - _ATTENTION}
    wanted = adapt.target_modules
    chosen = named[wanted] if isinstance(wanted, str) else set(wanted)
    return [pair for name, pair in linears.items() if name in chosen]


@dataclass(frozen=True)
class _Weight:
    """One weight of a model under the name that transformers gives it; `layer` is None outside the blocks."""

    name: str
    parts: frozenset[str]
    numbers: int
    layer: int | None = None


def _linear(name: str, part: str, inputs: int, outputs: int, bias: bool, layer: int | None = None) -> Iterator[_Weight]:
    yield _Weight(f"{name}.weight", frozenset({part}), inputs * outputs, layer)
    if bias:
        yield _Weight(f"{name}.bias", frozenset({part, "bias"}), outputs, layer)


def _norm(name: str, width: int, bias: bool, layer: int | None = None) -> Iterator[_Weight]:
    parts = frozenset({"norm", "embedding"} if ".embeddings." in name else {"norm"})
    yield _Weight(f"{name}.weight", parts, width, layer)
    if bias:
        yield _Weight(f"{name}.bias", parts | {"bias"}, width, layer)


def _weights(size: ModelSize) -> Iterator[_Weight]:
    """Every weight that trains or could."""
    yield from _encoder_weights(size) if size.is_encoder else _decoder_weights(size)
    yield from _own_head(size)


def _decoder_weights(size: ModelSize) -> Iterator[_Weight]:
    ends = {"embedding", "head"} if size.tied and not size.classes else {"embedding"}
    yield _Weight("model.embed_tokens.weight", frozenset(ends), size.embedding)
    biased = ("q_proj", "k_proj", "v_proj", "o_proj")[: size.attention_biases]
    for layer in range(size.layers):
        block = f"model.layers.{layer}"
        for name, pair in size.linears().items():
            room, part = ("self_attn", "attention") if name in _ATTENTION else ("mlp", "mlp")
            bias = name in biased if part == "attention" else size.mlp_biases
            yield from _linear(f"{block}.{room}.{name}", part, *pair, bias, layer)
        if size.experts.count:
            one = size.experts.numbers(size.hidden) * size.experts.count // 3
            experts = frozenset({"mlp", "experts"})
            yield _Weight(f"{block}.mlp.experts.gate_up_proj", experts, 2 * one, layer)
            yield _Weight(f"{block}.mlp.experts.down_proj", experts, one, layer)
            yield _Weight(f"{block}.mlp.gate.weight", frozenset({"router"}), size.hidden * size.experts.count, layer)
        for name in ("q_norm", "k_norm") if size.head_norm else ():
            yield from _norm(f"{block}.self_attn.{name}", size.head_norm, False, layer)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield from _norm(f"{block}.{name}", size.hidden, False, layer)
    yield from _norm("model.norm", size.hidden, False)
    if not size.tied and not size.classes:
        yield _Weight("lm_head.weight", frozenset({"head"}), size.head)


def _encoder_weights(size: ModelSize) -> Iterator[_Weight]:
    embeddings = f"{size.body}.embeddings"
    yield _Weight(f"{embeddings}.word_embeddings.weight", frozenset({"embedding"}), size.vocabulary * size.hidden)
    yield _Weight(f"{embeddings}.position_embeddings.weight", frozenset({"embedding"}), size.positions * size.hidden)
    yield from _norm(f"{embeddings}.LayerNorm", size.hidden, True)
    for layer in range(size.layers):
        block = f"{size.body}.encoder.layer.{layer}"
        for name, pair in size.linears().items():
            part = "attention" if name in _ATTENTION else "mlp"
            room = "attention.self." if name in ("query", "key", "value") else ""
            yield from _linear(f"{block}.{room}{name}", part, *pair, True, layer)
        for name in ("attention.output", "output"):
            yield from _norm(f"{block}.{name}.LayerNorm", size.hidden, True, layer)
    if size.classes and not size.of_tokens and size.body == "bert":
        yield from _linear("bert.pooler.dense", "head", size.hidden, size.hidden, True)


def _own_head(size: ModelSize) -> Iterator[_Weight]:
    """A task head, which the base has no weights for; nothing where the output embedding is the head."""
    if not size.classes:
        return
    square, classes = (size.hidden, size.hidden), (size.hidden, size.classes)
    if not size.is_encoder:
        yield from _linear("score", "head", *classes, size.of_tokens)
    elif size.body == "roberta" and not size.of_tokens:
        yield from _linear("classifier.dense", "head", *square, True)
        yield from _linear("classifier.out_proj", "head", *classes, True)
    else:
        yield from _linear("classifier", "head", *classes, True)
    if size.task_vectors:
        yield _Weight("task_embeddings.weight", frozenset({"embedding"}), size.task_vectors * size.hidden)


def _moving(size: ModelSize, adapt: SubsetSpec) -> list[_Weight]:
    """The weights of a subset, and a task head of its own, which moves in any case."""
    first, new = (adapt.first_layer or 0) % size.layers, {each.name for each in _own_head(size)}
    moves = (
        each for each in _weights(size) if each.name in new or adapt.moves(each.name, each.parts, each.layer, first)
    )
    return list(moves)


def trained_parameters(size: ModelSize, adapt: AdaptSpec) -> int:
    """Parameters that move."""
    if isinstance(adapt, FullSpec):
        return size.parameters
    if isinstance(adapt, SubsetSpec):
        return sum(each.numbers for each in _moving(size, adapt))
    own_head = sum(each.numbers for each in _own_head(size))
    if isinstance(adapt, BeginningSpec):
        return beginning_parameters(size, adapt) + own_head
    if isinstance(adapt, BottleneckSpec):
        return bottleneck_parameters(size, adapt) + own_head
    if isinstance(adapt, LoraExpertsSpec):
        return lora_expert_parameters(size.layers, size.hidden, size.inner, adapt) + own_head
    if isinstance(adapt, ExpertsSpec):
        moving = moving_experts(size.experts, adapt) * size.experts.numbers(size.hidden)
        return size.layers * (moving + (size.hidden * size.experts.count if adapt.router else 0)) + own_head
    outputs = sum(outputs for _, outputs in _lora_layers(size, adapt))
    lengths = _lora_blocks(size, adapt) * outputs if adapt.use_dora else 0
    return adapter_parameters(size, adapt) + lengths + own_head


def blocks_below(size: ModelSize, adapt: AdaptSpec) -> int:
    """Blocks below everything that ever moves."""
    if size.task_vectors:
        return 0
    if isinstance(adapt, LoraSpec):
        return size.layers - _lora_blocks(size, adapt)
    if not isinstance(adapt, SubsetSpec):
        return 0
    moving = _moving(size, adapt)
    if any("embedding" in each.parts or ".embeddings." in each.name for each in moving):
        return 0
    return min((each.layer for each in moving if each.layer is not None), default=size.layers)


def _subset_flops(
    size: ModelSize, adapt: SubsetSpec, attention: float, loss_share: float, checkpointing: bool
) -> float:
    moving = _moving(size, adapt)
    above = (size.layers - blocks_below(size, adapt)) / size.layers
    trained = sum(each.numbers for each in moving if each.parts & {"attention", "mlp"})
    head = 6 if any("head" in each.parts for each in moving) else 4
    flops = 2 * size.block_parameters * (1 + above) + 2 * trained + head * size.head * loss_share
    again = above * (2 * size.block_parameters + attention) if checkpointing else 0
    return flops + attention * (1 + 2 * above) + again


def flops_per_token(
    size: ModelSize,
    adapt: AdaptSpec,
    seen_length: float,
    loss_share: float,
    checkpointing: bool = False,
    kept: bool = False,
) -> float:
    """FLOPs of forward and backward for one token, by the formulas above; `kept` says that activations are."""
    attention = size.attention_flops(seen_length + 2 * places_before(adapt))
    below = blocks_below(size, adapt) / size.layers if kept and size.splits else 0.0
    flops = _flops_of_all_blocks(size, adapt, attention, loss_share, checkpointing)
    return flops - below * (2 * size.block_parameters + attention)


def _flops_of_all_blocks(
    size: ModelSize, adapt: AdaptSpec, attention: float, loss_share: float, checkpointing: bool
) -> float:
    if isinstance(adapt, SubsetSpec):
        return _subset_flops(size, adapt, attention, loss_share, checkpointing)
    passes = 6 if isinstance(adapt, FullSpec) else 4
    flops = passes * (size.block_parameters + size.head * loss_share) + 3 * attention
    if isinstance(adapt, LoraSpec):
        only_read = 1 - _lora_blocks(size, adapt) / size.layers
        flops += 6 * adapter_parameters(size, adapt) - only_read * (2 * size.block_parameters + 2 * attention)
    if isinstance(adapt, BottleneckSpec):
        flops += 6 * bottleneck_parameters(size, adapt)
    if isinstance(adapt, LoraExpertsSpec):
        flops += 6 * trained_parameters(size, adapt)
    if isinstance(adapt, ExpertsSpec) and size.experts.count:  # rows taken to go round evenly
        flops += 2 * trained_parameters(size, adapt) * size.experts.active / size.experts.count
    above = 1 - blocks_below(size, adapt) / size.layers
    return flops + (above * (2 * size.block_parameters + attention) if checkpointing else 0)


def places_before(adapt: AdaptSpec) -> int:
    """Places of a learned beginning, 0 without one."""
    return adapt.num_virtual_tokens if isinstance(adapt, BeginningSpec) else 0


def virtual_tokens(adapt: AdaptSpec) -> int:
    """Places of a learned beginning that the model reads like tokens, once a micro-batch."""
    return 0 if isinstance(adapt, PrefixSpec) else places_before(adapt)


def beginning_flops(size: ModelSize, adapt: AdaptSpec, checkpointing: bool = False) -> float:
    """FLOPs of a learned beginning in a micro-batch, forward and backward, 0 without one."""
    if not isinstance(adapt, BeginningSpec):
        return 0.0
    places, virtual = places_before(adapt), virtual_tokens(adapt)
    network = sum(inputs * outputs for inputs, outputs in _network(size, adapt))
    attention = 2 * virtual * size.query_width * size.layers
    passes = 6 if checkpointing else 4
    return virtual * (passes * size.block_parameters + (4 if checkpointing else 3) * attention) + 6 * places * network


def forward_flops_per_token(size: ModelSize, seen_length: float, loss_share: float) -> float:
    """FLOPs of a forward pass for one token, as in validation."""
    return 2 * (size.block_parameters + size.head * loss_share) + size.attention_flops(seen_length)


def memory_parts(
    size: ModelSize, adapt: AdaptSpec, tokens_at_once: int, loss_share: float, dtype: str, checkpointing: bool = False
) -> dict[str, int]:
    """Bytes by what holds them, at the peak of a step with `tokens_at_once` tokens in one micro-batch.

    `states` are gradients, float32 masters and Adam's moments of what trains.
    """
    wide = BYTES_OF_DTYPE[dtype]
    tokens_at_once += virtual_tokens(adapt)
    trained = trained_parameters(size, adapt)
    # a full float32 model is its own master
    own_master = 4 * trained if isinstance(adapt, FullSpec) and wide == 4 else 0
    inner = size.inner + size.experts.active * size.experts.inner
    masks = 4 if size.drops else 0  # of the two sums that a block drops from
    per_layer = ((22 + masks) * size.hidden + 6 * inner) * wide // 2
    if checkpointing:
        activations = tokens_at_once * (size.layers * size.hidden * wide + per_layer)
    else:
        activations = tokens_at_once * size.layers * per_layer
    positions = min(_LOGITS_AT_ONCE, max(1, round(tokens_at_once * loss_share)))
    return {
        "weights": weight_bytes(size, dtype),
        "states": trained * _ADAM_BYTES - own_master,
        "activations": activations,
        "logits": positions * (size.classes or size.vocabulary) * (8 + wide),
    }
