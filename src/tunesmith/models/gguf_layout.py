"""How a GGUF file names and orders what a Hugging Face folder holds: one table, read in both directions.

Names come from llama.cpp's `gguf-py` and `convert_hf_to_gguf.py`. Shapes: Q query width, K key width, E hidden size.

llama.cpp turns neighbouring values of a head together (x0 with x1), Hugging Face turns halves (x0 with x_half).
For the architectures with `permuted = True` the rows of the query and key projections are stored in another order, so
that both give the same product; leaving that out still loads, still answers, and answers nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ATTENTION = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
_BLOCK = {
    **_ATTENTION,
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_QKV_BIAS = {
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
}
_QK_NORM = {"attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight"}
_ROUTER = "ffn_gate_inp.weight"
_EXPERTS = {
    _ROUTER: "mlp.gate.weight",
    "ffn_gate_exps.weight": "mlp.experts.*.gate_proj.weight",
    "ffn_up_exps.weight": "mlp.experts.*.up_proj.weight",
    "ffn_down_exps.weight": "mlp.experts.*.down_proj.weight",
}
_MIXTRAL_EXPERTS = {
    _ROUTER: "block_sparse_moe.gate.weight",
    "ffn_gate_exps.weight": "block_sparse_moe.experts.*.w1.weight",
    "ffn_up_exps.weight": "block_sparse_moe.experts.*.w3.weight",
    "ffn_down_exps.weight": "block_sparse_moe.experts.*.w2.weight",
}
_SHARED_EXPERT = {
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
    "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
    "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
}


@dataclass(frozen=True)
class Architecture:
    """One architecture. `name` is llama.cpp's, `model_type` and `model_class` are transformers'.

    A `*` in a name of the Hugging Face layout stands for the number of each expert: GGUF holds their matrices as one
    tensor. `shares_sum_to_one` says whether llama.cpp divides the shares of a token's experts by their sum, `own_head`
    that it wants a head of its own where the embedding is the head.
    """

    name: str
    model_type: str
    model_class: str
    block: Mapping[str, str]
    permuted: bool = False
    default_pre: str = ""
    shares_sum_to_one: bool = True
    own_head: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture("llama", "llama", "LlamaForCausalLM", _BLOCK, permuted=True),
    "qwen2": Architecture("qwen2", "qwen2", "Qwen2ForCausalLM", {**_BLOCK, **_QKV_BIAS}, default_pre="qwen2"),
    "qwen3": Architecture("qwen3", "qwen3", "Qwen3ForCausalLM", {**_BLOCK, **_QK_NORM}, default_pre="qwen2"),
}
"""By llama.cpp's name, which for these equals the `model_type`."""

WITH_EXPERTS: Mapping[str, Architecture] = {
    "mixtral": Architecture(
        "llama", "mixtral", "MixtralForCausalLM", {**_ATTENTION, **_MIXTRAL_EXPERTS}, permuted=True
    ),
    "qwen2_moe": Architecture(
        "qwen2moe",
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        {**_ATTENTION, **_QKV_BIAS, **_EXPERTS, **_SHARED_EXPERT},
        shares_sum_to_one=False,
        own_head=True,
    ),
    "qwen3_moe": Architecture("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", {**_ATTENTION, **_QK_NORM, **_EXPERTS}),
}
"""Models with experts by their `model_type`. They are written and not read."""


def tensor_names(architecture: Architecture, layers: int, *, tied: bool) -> Iterator[tuple[str, str]]:
    """Pairs (name in GGUF, name in the Hugging Face layout); a tied head is left out."""
    for gguf_name, name in _OUTER.items():
        if not (tied and name == "lm_head.weight"):
            yield gguf_name, name
    for layer in range(layers):
        for gguf_name, name in architecture.block.items():
            yield f"blk.{layer}.{gguf_name}", f"model.layers.{layer}.{name}"


def parts_of(name: str, experts: int) -> list[str]:
    """What in files a tensor of GGUF is made of: itself, or the same matrix of every expert, in order."""
    return [name.replace("*", str(expert)) for expert in range(experts)] if "*" in name else [name]


def stays_float32(gguf_name: str, dimensions: int) -> bool:
    """Whether a tensor is not rounded in any format: vectors, and what chooses among experts."""
    return dimensions == 1 or gguf_name.endswith(_ROUTER)


def permuted_heads(gguf_name: str, architecture: Architecture, heads: int, key_value_heads: int) -> int:
    """Number of heads whose rows change order in this tensor; 0 when the tensor is stored as it is."""
    if not architecture.permuted:
        return 0
    if ".attn_q." in gguf_name:
        return heads
    return key_value_heads if ".attn_k." in gguf_name else 0


def to_gguf_order(rows: Array, heads: int) -> Array:
    """Rows [Q, ...] from halves to neighbours, head by head (`permute` in llama.cpp's converter)."""
    by_head = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(by_head.swapaxes(1, 2).reshape(rows.shape))


def from_gguf_order(rows: Array, heads: int) -> Array:
    """Rows [Q, ...] from neighbours back to halves: the inverse of `to_gguf_order`."""
    by_head = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(by_head.swapaxes(1, 2).reshape(rows.shape))
