"""GGUF artefacts (F16 and Q8_0) for llama.cpp, Ollama and LM Studio: one file with weights, tokenizer and template.

As llama.cpp's own converter does, vectors (norms, biases) and routers stay float32 and matrices take the format's type;
one whose rows are no multiple of 32 cannot be Q8_0 and stays F16. The experts of a block are one tensor a matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tunesmith.core.errors import TunesmithError
from tunesmith.models.allowed import read_allowed
from tunesmith.models.byte_bpe import merges_of, pre_tokenizer_name
from tunesmith.models.gguf_layout import (
    ARCHITECTURES,
    WITH_EXPERTS,
    Architecture,
    Array,
    parts_of,
    permuted_heads,
    stays_float32,
    tensor_names,
    to_gguf_order,
)

_TYPES = {
    "gguf-f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "gguf-q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
_BLOCK_VALUES = 32
_FILE = "model.gguf"


def gguf_path(folder: Path) -> Path:
    """Where the weight file of a GGUF artefact is."""
    return folder / _FILE


def write_gguf(
    folder: Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    base: Path,
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    *,
    name: str,
    licence: str,
) -> Path:
    """Write `model.gguf` into a folder.

    Args:
        kind: "gguf-f16" or "gguf-q8_0".
        tensors: merged weights by their names in the Hugging Face layout.
        base: folder whose config.json describes them.
        name, licence: written into the header.

    Errors: models.unknown_architecture, models.unknown_pre_tokenizer, models.not_byte_bpe, models.missing_tensor,
        ship.tensors_left_over.
    """
    config = read_allowed(base, "config.json").values
    architecture = _architecture(config)
    weight_type, file_type = _TYPES[kind]
    writer = gguf.GGUFWriter(str(gguf_path(folder)), architecture.name)
    writer.add_name(name)
    if licence:
        writer.add_license(licence)
    writer.add_file_type(int(file_type))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config)
    _add_tokenizer(writer, config, tokenizer, template)
    _add_tensors(writer, config, tensors, weight_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf_path(folder)


def _architecture(config: Mapping[str, object]) -> Architecture:
    known = {each.model_type: each for each in (*ARCHITECTURES.values(), *WITH_EXPERTS.values())}
    model_type = str(config.get("model_type"))
    unlike = _unlike(config, known[model_type]) if model_type in known else ""
    if model_type not in known or unlike:
        described = f"{model_type} ({unlike})" if unlike else model_type
        raise TunesmithError("models.unknown_architecture", architecture=described, known=", ".join(known))
    return known[model_type]


def _unlike(config: Mapping[str, object], architecture: Architecture) -> str:
    """A setting that llama.cpp computes otherwise, or not at all; empty where there is none."""
    scaling = _rope(config).get("rope_type", _rope(config).get("type", "default"))
    if scaling != "default":
        return f"rope_type = {scaling}"
    if config.get("mlp_only_layers"):
        return f"mlp_only_layers = {config['mlp_only_layers']}"
    if _whole(config, "decoder_sparse_step", 1) != 1:
        return f"decoder_sparse_step = {config['decoder_sparse_step']}"
    divides = bool(config.get("norm_topk_prob", False))
    of_qwen = architecture.model_type in WITH_EXPERTS and architecture.model_type != "mixtral"  # which always divides
    return f"norm_topk_prob = {divides}" if of_qwen and divides != architecture.shares_sum_to_one else ""


def _experts(config: Mapping[str, object]) -> int:
    """Experts of a block; 0 in a dense model. Mixtral has a name of its own for their number."""
    return _whole(config, "num_local_experts", 0) or _whole(config, "num_experts", 0)


def _rope(config: Mapping[str, object]) -> Mapping[str, object]:
    stated = config.get("rope_parameters") or config.get("rope_scaling")
    return stated if isinstance(stated, dict) else {}


def _whole(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if value is None:
        value = default
    return int(str(value))


def _add_shape(writer: gguf.GGUFWriter, config: Mapping[str, object]) -> None:
    heads, hidden = _whole(config, "num_attention_heads"), _whole(config, "hidden_size")
    head_width = _whole(config, "head_dim", hidden // heads)
    base = config.get("rope_theta", _rope(config).get("rope_theta", 10_000.0))
    writer.add_context_length(_whole(config, "max_position_embeddings"))
    writer.add_embedding_length(hidden)
    writer.add_block_count(_whole(config, "num_hidden_layers"))
    writer.add_feed_forward_length(_whole(config, "intermediate_size"))
    writer.add_head_count(heads)
    writer.add_head_count_kv(_whole(config, "num_key_value_heads", heads))
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(float(str(base)))
    writer.add_layer_norm_rms_eps(float(str(config.get("rms_norm_eps", 1e-6))))
    writer.add_vocab_size(_whole(config, "vocab_size"))
    if _experts(config):
        writer.add_expert_count(_experts(config))
        writer.add_expert_used_count(_whole(config, "num_experts_per_tok"))
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(_whole(config, "moe_intermediate_size"))
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(_whole(config, "shared_expert_intermediate_size"))


def _add_tokenizer(
    writer: gguf.GGUFWriter, config: Mapping[str, object], tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    backend = tokenizer.backend_tokenizer
    merges = merges_of(backend)
    by_id = {index: token for token, index in backend.get_vocab(with_added_tokens=True).items()}
    added = backend.get_added_tokens_decoder()
    tokens: list[str] = []
    types: list[gguf.TokenType] = []
    for index in range(_whole(config, "vocab_size")):
        tokens.append(by_id.get(index, f"[PAD{index}]"))  # rows of the embedding that no token uses
        if index in added:
            types.append(gguf.TokenType.CONTROL if added[index].special else gguf.TokenType.USER_DEFINED)
        else:
            types.append(gguf.TokenType.NORMAL if index in by_id else gguf.TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")  # the name that GGUF has for byte-level BPE
    writer.add_tokenizer_pre(pre_tokenizer_name(backend))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for place, index in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if isinstance(index, int):
            getattr(writer, f"add_{place}_token_id")(index)
    # the template says everything: a begin token that it writes must not be put there a second time
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if template:
        writer.add_chat_template(template)


def gguf_arrays(
    config: Mapping[str, object], tensors: Mapping[str, Tensor], holding: Collection[str] | None = None
) -> Iterator[tuple[str, Array]]:
    """Tensors by their GGUF names and in GGUF's order of rows, float32, those that are given of those that exist.

    Args:
        holding: only those that hold one of these; None: all.

    Errors: models.unknown_architecture, ship.tensors_left_over.
    """
    architecture = _architecture(config)
    heads = _whole(config, "num_attention_heads")
    key_value_heads = _whole(config, "num_key_value_heads", heads)
    experts = _experts(config)
    left = set(tensors)
    for gguf_name, name in tensor_names(architecture, _whole(config, "num_hidden_layers"), tied=False):
        parts = parts_of(name, experts)
        left.difference_update(parts)
        if any(each not in tensors for each in parts) or not (holding is None or set(parts) & set(holding)):
            continue
        values = _values(gguf_name, [tensors[each].to(torch.float32).numpy() for each in parts], stacked="*" in name)
        turned = permuted_heads(gguf_name, architecture, heads, key_value_heads)
        yield gguf_name, to_gguf_order(values, turned) if turned else values
    if left:
        raise TunesmithError("ship.tensors_left_over", names=", ".join(sorted(left)[:3]))


def _values(gguf_name: str, parts: list[Array], *, stacked: bool) -> Array:
    """A tensor as GGUF has it: experts one behind the other, what weighs the shared expert as a vector."""
    if stacked:
        return np.stack(parts)
    return parts[0][0] if gguf_name.endswith("ffn_gate_inp_shexp.weight") else parts[0]


def _add_tensors(
    writer: gguf.GGUFWriter,
    config: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    weight_type: gguf.GGMLQuantizationType,
) -> None:
    tied = "lm_head.weight" not in tensors
    embedding = tensors.get("model.embed_tokens.weight")
    if tied and embedding is not None and _architecture(config).own_head:
        tensors, tied = {**tensors, "lm_head.weight": embedding}, False
    for _, name in tensor_names(_architecture(config), _whole(config, "num_hidden_layers"), tied=tied):
        for each in parts_of(name, _experts(config)):
            if each not in tensors:
                raise TunesmithError("models.missing_tensor", path=str(config.get("model_type")), tensor=each)
    for gguf_name, values in gguf_arrays(config, tensors):
        kind = weight_type
        if stays_float32(gguf_name, values.ndim):
            kind = gguf.GGMLQuantizationType.F32
        elif values.shape[-1] % _BLOCK_VALUES and kind == gguf.GGMLQuantizationType.Q8_0:
            kind = gguf.GGMLQuantizationType.F16
        writer.add_tensor(gguf_name, gguf.quantize(values, kind), raw_dtype=kind)
