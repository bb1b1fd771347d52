"""A model in two halves: the blocks that never change, and those from the first that trains on.

What the lower half makes of a row is the same in every epoch, so it can be kept (`train/activations.py`) and the upper
half begins from there. Both halves run the model's own blocks, one after the other.

Shape letters: T tokens, K kept positions, W width, S size of a head.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.models.blocks import blocks_of, ends_in_fast_block
from tunesmith.models.packed import Documents, Packed
from tunesmith.models.sites import is_encoder, layer_of

_ABOVE = ("norm.", "pooler.")
"""Parts of a body above its blocks; what else lies outside them lies below."""
_SPLIT = ("bert", "roberta", "xlm-roberta", "llama", "mistral", "qwen2", "qwen3")
"""Architectures whose blocks are run one after the other here as their own forward does, and nothing besides."""


def never_moving_blocks(model: PreTrainedModel, moving: Collection[str]) -> int:
    """How many blocks lie below everything that may ever move, 0 where the model cannot be split there.

    Args:
        moving: names of the model's parameters, those of a task head among them.
    """
    known, body = {name for name, _ in model.named_parameters()}, f"{model.base_model_prefix}."
    if str(model.config.model_type) not in _SPLIT or not known.issuperset(moving):
        return 0
    layers = [layer for name in moving if (layer := layer_of(name)) is not None]
    outside = [name.removeprefix(body) for name in moving if layer_of(name) is None and name.startswith(body)]
    if not all(name.startswith(_ABOVE) for name in outside):
        return 0
    # a fast last block gives what is asked of it alone, not every token's output: it is always computed
    most = len(blocks_of(model)) - ends_in_fast_block(model)
    return min([*layers, most])


def lower_half(model: PreTrainedModel, batch: Packed, position_ids: Tensor, blocks: int) -> Tensor:
    """What the first `blocks` blocks make of a batch, [T, W]; positions as the model counts them, [T]."""
    if is_encoder(model):
        embeddings = model.base_model.get_submodule("embeddings")
        embedded: Tensor = embeddings(input_ids=batch.token_ids[None], position_ids=position_ids[None])
    else:
        embedded = model.get_input_embeddings()(batch.token_ids[None])
    return _through(model, blocks_of(model)[:blocks], embedded, batch, position_ids)[0]


def upper_half(model: PreTrainedModel, below_TW: Tensor, batch: Packed, position_ids: Tensor, blocks: int) -> Tensor:
    """Last hidden states at `batch.keep`, [K, W], from what the first `blocks` blocks made of the batch."""
    hidden = _through(model, blocks_of(model)[blocks:], below_TW[None], batch, position_ids)
    if not is_encoder(model):
        hidden = model.base_model.get_submodule("norm")(hidden)
    if ends_in_fast_block(model) and blocks < len(blocks_of(model)):
        return hidden[0, : batch.keep.numel()]
    return hidden[0][batch.keep]


def _through(
    model: PreTrainedModel, blocks: nn.ModuleList, hidden_1TW: Tensor, batch: Packed, position_ids: Tensor
) -> Tensor:
    documents = Documents.of(batch)
    if is_encoder(model):
        for block in blocks:
            hidden_1TW = block(hidden_1TW, None, documents=documents, keep=batch.keep)
        return hidden_1TW
    angles: tuple[Tensor, Tensor] = model.base_model.get_submodule("rotary_emb")(hidden_1TW, position_ids[None])
    for block in blocks:
        hidden_1TW = block(
            hidden_1TW,
            attention_mask=None,
            position_ids=position_ids[None],
            past_key_values=None,
            use_cache=False,
            position_embeddings=angles,
            documents=documents,
            keep=batch.keep,
        )
    return hidden_1TW


def below_bytes(model: PreTrainedModel, tokens: int) -> int:
    """Bytes of what the lower half makes of so many tokens."""
    width = int(model.config.get_text_config().hidden_size)
    return tokens * width * torch.empty((), dtype=model.dtype).element_size()
