"""The one text batch: documents stand end to end, without padding, and each attends only to itself.

Shape letters: T tokens of the batch, D documents, K positions whose logits are needed, H query heads,
G key/value heads, L tokens of one document, S size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import pairwise

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


SHARED_AT_LEAST = 16
"""Shortest common beginning worth a parent document."""


@dataclass(frozen=True)
class Features:
    """One encoded row: token ids and the loss weight of each (0 where the token is only read)."""

    row: int
    token_ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Packed:
    """A batch of D documents.

    `parent[d]` is the document whose tokens come before document d, or -1: rows that begin with the same system
    prompt or passage share it, exactly; a parent's own `row` is -1. `keep` are the positions that predict a token which
    carries loss; `target` is that token and `weight` its share.
    """

    token_ids: Tensor  # [T]
    position_ids: Tensor  # [T] restart in each document, or go on after its parent
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


def pack(items: Sequence[Features]) -> Packed:
    """Lay rows end to end; rows that begin alike share that beginning as one parent document.

    The first token of a row is never predicted: nothing stands before it.
    """
    layout = _Layout()
    for group in _groups_of_like_beginning(items):
        shared = _shared_length(group)
        if shared:
            parent = layout.add(-1, group[0].token_ids[:shared], (0.0,) * shared, -1, 0)
            for item in group:
                layout.add(item.row, item.token_ids[shared:], item.weights[shared:], parent, shared)
        else:
            for item in group:
                layout.add(item.row, item.token_ids, item.weights, -1, 0)
    return layout.batch()


class _Layout:
    """Collects documents into the lists of a batch."""

    def __init__(self) -> None:
        self._offsets = [0]
        self._token_ids: list[int] = []
        self._position_ids: list[int] = []
        self._parent: list[int] = []
        self._keep: list[int] = []
        self._target: list[int] = []
        self._weight: list[float] = []
        self._row: list[int] = []

    def add(self, row: int, token_ids: Sequence[int], weights: Sequence[float], parent: int, position: int) -> int:
        """Append a document that starts at `position`; returns its number."""
        first = self._offsets[-1]
        self._token_ids.extend(token_ids)
        self._position_ids.extend(range(position, position + len(token_ids)))
        self._offsets.append(len(self._token_ids))
        self._parent.append(parent)
        self._row.append(row)
        for place in range(1, len(token_ids)):
            if weights[place] != 0:
                self._keep.append(first + place - 1)
                self._target.append(token_ids[place])
                self._weight.append(weights[place])
        return len(self._row) - 1

    def batch(self) -> Packed:
        """The lists as tensors."""
        return Packed(
            token_ids=torch.tensor(self._token_ids, dtype=torch.long),
            position_ids=torch.tensor(self._position_ids, dtype=torch.long),
            offsets=torch.tensor(self._offsets, dtype=torch.long),
            parent=torch.tensor(self._parent, dtype=torch.long),
            keep=torch.tensor(self._keep, dtype=torch.long),
            target=torch.tensor(self._target, dtype=torch.long),
            weight=torch.tensor(self._weight, dtype=torch.float32),
            row=torch.tensor(self._row, dtype=torch.long),
        )


def _groups_of_like_beginning(items: Sequence[Features]) -> list[list[Features]]:
    groups: dict[tuple[int, ...], list[Features]] = {}
    for item in items:
        groups.setdefault(item.token_ids[:SHARED_AT_LEAST], []).append(item)
    return list(groups.values())


def _shared_length(group: Sequence[Features]) -> int:
    """Tokens that every row of the group begins with and of which none is learned; 0 where sharing does not pay.

    Each row keeps a token of its own before its first learned one: that token predicts it.
    """
    if len(group) < 2:
        return 0
    first = group[0].token_ids
    shared = min(_first_learned(item) - 1 for item in group)
    for item in group[1:]:
        shared = next((place for place in range(max(0, shared)) if first[place] != item.token_ids[place]), shared)
    return shared if shared >= SHARED_AT_LEAST else 0


def _first_learned(item: Features) -> int:
    return next((place for place, weight in enumerate(item.weights) if weight), len(item.weights))


@dataclass(frozen=True)
class Documents:
    """Where documents lie, as plain numbers for the attention: `spans[d]` = (first, last), `parents[d]` or -1."""

    spans: tuple[tuple[int, int], ...]
    parents: tuple[int, ...]

    @classmethod
    def of(cls, batch: Packed) -> Documents:
        """The documents of a batch."""
        offsets = batch.offsets.tolist()
        return cls(tuple(pairwise(offsets)), tuple(batch.parent.tolist()))


@lru_cache(maxsize=256)
def _causal_bias(before: int, length: int, repeats: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[repeats * L, before + L]: 0 where a token may look, -inf where it may not."""
    bias = torch.full((length, before + length), float("-inf"), dtype=dtype, device=device).triu(before + 1)
    return bias.repeat(repeats, 1)


def _plain_attention(query_HLS: Tensor, key_GMS: Tensor, value_GMS: Tensor, scaling: float) -> Tensor:
    """Causal attention of one document by two products. The heads that share a key stand in one matrix.

    M = L, or L and the parent's tokens before it.
    """
    num_heads, length, size = query_HLS.shape
    groups, reach, _ = key_GMS.shape
    repeats = num_heads // groups
    stacked = (query_HLS * scaling).reshape(groups, repeats * length, size)
    bias = _causal_bias(reach - length, length, repeats, query_HLS.dtype, query_HLS.device)
    scores = torch.baddbmm(bias, stacked, key_GMS.transpose(1, 2))
    shares = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query_HLS.dtype)
    return torch.bmm(shares, value_GMS).view(num_heads, length, size)


def _document_attention(query_HLS: Tensor, key_GMS: Tensor, value_GMS: Tensor, scaling: float) -> Tensor:
    length, reach = query_HLS.shape[1], key_GMS.shape[1]
    if query_HLS.device.type == "cpu" and reach <= PLAIN_UP_TO:
        return _plain_attention(query_HLS, key_GMS, value_GMS, scaling)
    bias = None if reach == length else _causal_bias(reach - length, length, 1, query_HLS.dtype, query_HLS.device)
    return scaled_dot_product_attention(
        query_HLS[None],
        key_GMS[None],
        value_GMS[None],
        attn_mask=bias,
        is_causal=bias is None,
        scale=scaling,
        enable_gqa=True,
    )[0]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    documents: Documents | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention for transformers: query [1, H, T, S], key and value [1, G, T, S] -> [1, T, H, S].

    `documents` travels as an argument of the model's forward. Errors: packed.packed_only for padded batches,
    several sequences, attention dropout or a call without documents, packed.other_attention for capped scores and
    sinks, packed.window_short for a sliding window shorter than a document: this form would answer wrongly.
    """
    if documents is None or attention_mask is not None or query.shape[0] != 1 or dropout:
        raise TunesmithError("packed.packed_only")
    if softcap is not None or s_aux is not None:
        raise TunesmithError("packed.other_attention", part="softcap" if softcap is not None else "s_aux")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    answers: list[Tensor] = []
    for (first, last), parent in zip(documents.spans, documents.parents, strict=True):
        key_GMS, value_GMS = key[0, :, first:last], value[0, :, first:last]
        if parent >= 0:
            before = slice(*documents.spans[parent])
            key_GMS = torch.cat([key[0, :, before], key_GMS], dim=1)
            value_GMS = torch.cat([value[0, :, before], value_GMS], dim=1)
        if sliding_window is not None and key_GMS.shape[1] > sliding_window:
            raise TunesmithError("packed.window_short", window=sliding_window, tokens=key_GMS.shape[1])
        answers.append(_document_attention(query[0, :, first:last], key_GMS, value_GMS, scale))
    return torch.cat(answers, dim=1).transpose(0, 1)[None], None


def _refuse_padding(*_: object, attention_mask: Tensor | None = None, **__: object) -> None:
    """The mask of a packed batch: none at all; a padded batch is refused."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise TunesmithError("packed.packed_only")


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _refuse_padding)
