"""Sizes against the published counts of known models, PEFT's count, and floors worked out by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from tunesmith.core.errors import TunesmithError
from tunesmith.models import halves, nf4
from tunesmith.models.catalog import find
from tunesmith.models.quantized import Form, quantize_blocks
from tunesmith.models.sites import ENCODERS
from tunesmith.plan import sizes
from tunesmith.plan.sizes import (
    NF4_BLOCK,
    NF4_GROUP,
    ModelSize,
    adapter_parameters,
    flops_per_token,
    memory_parts,
    size_from_config,
    trained_parameters,
    weight_bytes,
)
from tunesmith.recipe.specs.adapt import ExpertsSpec, FullSpec, LoraSpec, SubsetSpec

_KEYS = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "vocab_size", "tie_word_embeddings", "head_dim",
)  # fmt: skip
MODELS = {
    "smollm2-135m": (30, 576, 9, 3, 1536, 49152, True),
    "qwen2.5-0.5b": (24, 896, 14, 2, 4864, 151936, True),
    "qwen3-0.6b": (28, 1024, 16, 8, 3072, 151936, True, 128),
    "llama-3.1-8b": (32, 4096, 32, 8, 14336, 128256, False),
}
SMOLLM2 = dict(zip(_KEYS, MODELS["smollm2-135m"], strict=False))


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_the_published_ones(name: str) -> None:
    known = find(name)
    assert known is not None
    size = size_from_config(dict(zip(_KEYS, MODELS[name], strict=False)))
    # biases and head norms are left out: less than a ten-thousandth
    assert size.parameters == pytest.approx(known.parameters, rel=1e-4)


WITH_EXPERTS = {
    "mixtral-8x7b": (
        {"model_type": "mixtral", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
         "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "num_local_experts": 8,
         "num_experts_per_tok": 2}, 46.70e9, 12.88e9,
    ),
    "qwen1.5-moe-a2.7b": (
        {"model_type": "qwen2_moe", "num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 16,
         "num_key_value_heads": 16, "intermediate_size": 5632, "moe_intermediate_size": 1408, "vocab_size": 151936,
         "shared_expert_intermediate_size": 5632, "num_experts": 60, "num_experts_per_tok": 4,
         "decoder_sparse_step": 1}, 14.32e9, 2.69e9,
    ),
    "qwen3-30b-a3b": (
        {"model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
         "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
         "vocab_size": 151936, "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1},
        30.53e9, 3.35e9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_models_with_experts_have_the_published_counts(name: str) -> None:
    """All parameters, and those that a token meets (embedding and head among them)."""
    config, whole, met = WITH_EXPERTS[name]
    size = size_from_config(config)
    assert size.parameters == pytest.approx(whole, rel=2e-3)
    assert size.block_parameters + 2 * size.head == pytest.approx(met, rel=2e-2)
    moving = trained_parameters(size, ExpertsSpec(most_used=2, router=True))
    assert moving == size.layers * size.hidden * (6 * size.experts.inner + size.experts.count)
    with pytest.raises(TunesmithError, match=r"plan\.unknown_size"):
        size_from_config({**config, "mlp_only_layers": [0]})


def test_parts_of_the_bundled_model() -> None:
    size = size_from_config(SMOLLM2)
    assert size == ModelSize(30, 576, 576, 192, 1536, 49152, True)
    assert (size.parameters, size.block_parameters, size.head) == (134_515_008, 106_168_320, 28_311_552)
    assert adapter_parameters(size, LoraSpec(rank=16)) == 4_884_480, "what PEFT prints for it"
    assert trained_parameters(size, FullSpec()) == size.parameters
    attention = LoraSpec(rank=8, target_modules="attention")
    assert adapter_parameters(size, attention) == 30 * 8 * (1152 + 768 + 768 + 1152)
    assert adapter_parameters(size, LoraSpec(rank=8, target_modules=["q_proj"])) == 30 * 8 * 1152


def test_flops_of_a_token() -> None:
    size = size_from_config(SMOLLM2)
    lora = flops_per_token(size, LoraSpec(rank=16), 335, 0.3)
    assert lora == pytest.approx(0.52e9, rel=0.01), "weights 0.42, logits 0.03, attention 0.03, adapters 0.03 GFLOP"
    full = flops_per_token(size, FullSpec(), 0, 1.0)
    assert full == 6 * (size.block_parameters + size.head)
    checkpointed = flops_per_token(size, LoraSpec(rank=16), 335, 0.3, checkpointing=True)
    assert checkpointed - lora == pytest.approx(2 * size.block_parameters + 2 * 335 * 576 * 30)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_bytes_of_a_quantised_base_are_those_that_it_holds(quantize: Form, dtype: torch.dtype) -> None:
    config = {**SMOLLM2, "num_hidden_layers": 2, "vocab_size": 300}
    model = LlamaForCausalLM(LlamaConfig(**config)).to(dtype)
    quantize_blocks(model, quantize)
    kept = model.state_dict().keys()
    held = sum(each.nbytes for each in model.parameters())
    held += sum(each.nbytes for name, each in model.named_buffers() if name in kept)
    size, name = size_from_config(config, quantize), str(dtype).removeprefix("torch.")
    largest_dense = 576 * 1536 * dtype.itemsize
    assert weight_bytes(size, name) == held + largest_dense
    assert (NF4_BLOCK, NF4_GROUP) == (nf4.BLOCK, nf4.GROUP)


def test_what_a_quantised_base_saves() -> None:
    """Of SmolLM2-135M's 269 MB in bfloat16 the blocks' 212 MB become 55 and 106."""
    plain, packed, bytes_each = (
        weight_bytes(size_from_config(SMOLLM2, form), "bfloat16") for form in ("none", "nf4", "int8")
    )
    assert plain == 2 * size_from_config(SMOLLM2).parameters
    blocks = size_from_config(SMOLLM2).block_parameters
    dense = 2 * 576 * 1536
    assert packed - dense == pytest.approx(plain - 2 * blocks + blocks * (4 + 8 / 64 + 32 / (64 * 256)) / 8, rel=1e-4)
    assert bytes_each - dense == pytest.approx(plain - blocks, rel=1e-2)


def test_memory_by_what_holds_it() -> None:
    size = size_from_config(SMOLLM2)
    lora = memory_parts(size, LoraSpec(rank=16), 2048, 0.3, "bfloat16")
    assert lora["weights"] == 2 * size.parameters
    assert lora["states"] == 16 * 4_884_480
    full = memory_parts(size, FullSpec(), 2048, 0.3, "float32")
    assert full["weights"] + full["states"] == 16 * size.parameters, "weights, gradient and two moments of 4 bytes each"
    assert full["activations"] == 2 * lora["activations"]
    saved = memory_parts(size, LoraSpec(rank=16), 2048, 0.3, "bfloat16", checkpointing=True)
    assert saved["activations"] < 0.15 * lora["activations"]


@pytest.mark.parametrize("change", [{"hidden_size": None}, {"vocab_size": "many"}, {"num_hidden_layers": True}])
def test_a_config_of_another_kind_has_a_code(change: dict[str, object]) -> None:
    with pytest.raises(TunesmithError) as caught:
        size_from_config({**SMOLLM2, **change})
    assert (caught.value.code, caught.value.facts["key"]) == ("plan.unknown_size", next(iter(change)))


@pytest.mark.parametrize("task", ["text_class", "token_class"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "qwen2", "qwen3", "llama"])
def test_every_weight_of_a_model_with_a_head_is_counted(kind: str, task: str) -> None:
    """Biases, norms, pooler and head included, as transformers makes them."""
    shape = {
        "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 64,
        "max_position_embeddings": 40, "tie_word_embeddings": True,
    }  # fmt: skip
    if kind in ("qwen2", "qwen3", "llama"):
        shape |= {"num_key_value_heads": 2, "head_dim": 8} | ({"attention_bias": True} if kind == "llama" else {})
    config = AutoConfig.for_model(kind, **shape, num_labels=3)
    makers = {"text_class": AutoModelForSequenceClassification, "token_class": AutoModelForTokenClassification}
    model = makers[task].from_config(config)
    size = size_from_config(config.to_dict(), "none", 3, task == "token_class")
    assert size.parameters == sum(each.numel() for each in model.parameters())
    biases = sum(each.numel() for name, each in model.named_parameters() if name.endswith(".bias"))
    own = sum(each.numel() for name, each in model.named_parameters() if name.split(".")[0] in ("classifier", "score"))
    own_biases = sum(
        each.numel()
        for name, each in model.named_parameters()
        if name.split(".")[0] in ("classifier", "score") and name.endswith(".bias")
    )
    assert trained_parameters(size, SubsetSpec(parts=["bias"])) == biases - own_biases + own


def test_the_names_of_architectures_are_those_of_the_models() -> None:
    assert set(sizes._SPLIT) == set(halves._SPLIT)
    assert set(sizes._ENCODERS) == set(ENCODERS)
