"""The one text batch: documents stand end to end, without padding, and each attends only to itself.

Shape letters: T tokens of the batch, D documents, K positions whose logits are needed, H query heads,
G key/value heads, L tokens of one document, S size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tunesmith.core.errors import TunesmithError

PACKED_ATTENTION = "tunesmith_packed"
"""Name under which transformers finds the attention of packed batches."""

PLAIN_UP_TO = 512
"""Documents of at most this many tokens take plain products on a CPU: forward and backward of one document of 150
tokens (9 heads of 64, bfloat16, two cores) took 0.9 ms against 2.7 ms for the flash kernel; at 600 they meet."""


@dataclass(frozen=True)
class Features:
    """One encoded row: token ids and the loss weight of each (0 where the token is only read)."""

    row: int
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Packed:
    """A batch of D documents.

    `parent[d]` is the document whose tokens come before document d, or -1: shared prompts are a later use of it,
    and the plain attention refuses it rather than leave it out. `keep` are the positions that predict a token which
    carries loss; `target` is that token and `weight` its share.
    """

    token_ids: Tensor  # [T]
    position_ids: Tensor  # [T]
    offsets: Tensor  # [D+1]
    parent: Tensor  # [D]
    keep: Tensor  # [K]
    target: Tensor  # [K]
    weight: Tensor  # [K] float32
    row: Tensor  # [D]

    def to(self, device: torch.device) -> Packed:
        """The same batch on a device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.token_ids.numel())

    @property
    def num_documents(self) -> int:
        """D."""
        return int(self.row.numel())


def pack(items: Sequence[Features]) -> Packed:
    """Lay rows end to end. The first token of a row is never predicted: nothing stands before it."""
    offsets = [0]
    token_ids: list[int] = []
    position_ids: list[int] = []
    keep: list[int] = []
    target: list[int] = []
    weight: list[float] = []
    for item in items:
        first = offsets[-1]
        token_ids.extend(item.token_ids)
        position_ids.extend(range(len(item.token_ids)))
        offsets.append(len(token_ids))
        for place in range(1, len(item.token_ids)):
            if item.weights[place] != 0:
                keep.append(first + place - 1)
                target.append(item.token_ids[place])
                weight.append(item.weights[place])
    return Packed(
        token_ids=torch.tensor(token_ids, dtype=torch.long),
        position_ids=torch.tensor(position_ids, dtype=torch.long),
        offsets=torch.tensor(offsets, dtype=torch.long),
        parent=torch.full((len(items),), -1, dtype=torch.long),
        keep=torch.tensor(keep, dtype=torch.long),
        target=torch.tensor(target, dtype=torch.long),
        weight=torch.tensor(weight, dtype=torch.float32),
        row=torch.tensor([item.row for item in items], dtype=torch.long),
    )


@lru_cache(maxsize=64)
def _causal_bias(length: int, repeats: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[repeats * L, L]: 0 where a token may look, -inf where it may not."""
    bias_LL = torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu(1)
    return bias_LL.repeat(repeats, 1)


def _plain_attention(query_HLS: Tensor, key_GLS: Tensor, value_GLS: Tensor, scaling: float) -> Tensor:
    """Causal attention of one document by two products. The heads that share a key stand in one matrix."""
    num_heads, length, size = query_HLS.shape
    groups = key_GLS.shape[0]
    repeats = num_heads // groups
    stacked = (query_HLS * scaling).reshape(groups, repeats * length, size)
    bias = _causal_bias(length, repeats, query_HLS.dtype, query_HLS.device)
    scores = torch.baddbmm(bias, stacked, key_GLS.transpose(1, 2))
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query_HLS.dtype)
    return torch.bmm(shares, value_GLS).view(num_heads, length, size)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    document_offsets: Sequence[int] | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention for transformers: query [1, H, T, S], key and value [1, G, T, S] -> [1, T, H, S].

    `document_offsets` travels as an argument of the model's forward. Errors: packed.packed_only for padded batches,
    several sequences, attention dropout or a call without offsets: this form would answer wrongly.
    """
    if document_offsets is None or attention_mask is not None or query.shape[0] != 1 or dropout:
        raise TunesmithError("packed.packed_only")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    answers: list[Tensor] = []
    for first, last in zip(document_offsets[:-1], document_offsets[1:], strict=True):
        query_HLS, key_GLS, value_GLS = query[0, :, first:last], key[0, :, first:last], value[0, :, first:last]
        if query.device.type == "cpu" and last - first <= PLAIN_UP_TO:
            answers.append(_plain_attention(query_HLS, key_GLS, value_GLS, scale))
        else:
            answers.append(
                scaled_dot_product_attention(
                    query_HLS[None], key_GLS[None], value_GLS[None], is_causal=True, scale=scale, enable_gqa=True
                )[0]
            )
    return torch.cat(answers, dim=1).transpose(0, 1)[None], None


def _refuse_padding(*_: object, attention_mask: Tensor | None = None, **__: object) -> None:
    """The mask of a packed batch: none at all; a padded batch is refused."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise TunesmithError("packed.packed_only")


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _refuse_padding)
