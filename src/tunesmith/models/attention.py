"""Attention of packed batches: every document attends to itself and to the documents it continues, causally.

There may be more keys and values than queries: the first ones are then learned, and stand before every document.

On a CPU the scores of a document are plain matrix products over blocks of queries, each against the keys it may see:
torch's flash kernel for CPUs took 2.9, 7.2 and 33 ms forward and backward at 150, 330 and 1,024 tokens (9 query heads,
3 key heads, head size 64, bfloat16, two cores), this form 0.6, 1.7 and 10.5 ms.

Shape letters: T tokens of the batch, P learned places before them, H query heads, G key/value heads, R = H / G query
heads that share a key head, L tokens of one document, M tokens it may see (its own and those of the documents it
continues), S size of a head, Q queries of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tunesmith.core.errors import TunesmithError
from tunesmith.models.packed import Documents, Span, places

PACKED_ATTENTION = "tunesmith_packed"
"""Name under which transformers finds the attention of packed batches."""

QUERIES_AT_ONCE = 192
"""Queries of one block. A later block sees more keys than an earlier one, so half of the products above the diagonal of
a long document are left out; four documents of 312 tokens took 7.9 ms as one block each, 7.4, 6.6 and 7.4 in blocks of
256, 192 and 128."""

GRAIN = 16
"""Documents are computed as if they went on to a multiple of this, over tokens of the next one whose shares are
dropped: oneDNN makes a program of 0.4-0.7 MB for every new shape of a product and keeps it, five a block."""

KEPT_UP_TO = 512
"""Shares of documents that see at most this many tokens are kept for the backward pass; longer ones are made again:
at 1,024 tokens they would be 12 MB a layer."""


@lru_cache(maxsize=16)
def _triangle(length: int, repeats: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[L * R, L]: 0 where a query may look, -inf above the diagonal; each query stands R times in a row."""
    above = torch.full((length, length), float("-inf"), dtype=dtype, device=device).triu(1)
    return above.repeat_interleave(repeats, dim=0)


@dataclass(frozen=True)
class Block:
    """Queries [first, last) of the batch against the first `reach` of the tokens that their document sees.

    The last `foreign` of them belong to the next document.
    """

    first: int
    last: int
    reach: int
    foreign: int


@dataclass(frozen=True)
class Document:
    """Where a document lies among the keys, where those before it lie, and in which blocks it is computed.

    `computed` is the span rounded up; `is_kept` says whether its shares are kept for the backward pass.
    """

    span: Span
    before: tuple[Span, ...]
    computed: Span
    blocks: tuple[Block, ...]
    is_kept: bool


def documents_in_blocks(documents: Documents) -> Iterator[Document]:
    """Every document of a batch as it is computed, in the order of the batch.

    A later document writes over what an earlier one has written in its place, so the order matters.
    """
    keys, unread = documents.spans[-1][1] if documents.spans else 0, documents.unread
    for span, before in documents.chains():
        first, last = span
        end = first + -(-(last - first) // GRAIN) * GRAIN
        if end > keys:
            end = last
        seen_before = places(before)
        blocks = [
            Block(start - unread, stop - unread, seen_before + stop - first, max(0, stop - last))
            for start in range(first, end, QUERIES_AT_ONCE)
            for stop in (min(end, start + QUERIES_AT_ONCE),)
        ]
        yield Document(span, before, (first, end), tuple(blocks), seen_before + end - first <= KEPT_UP_TO)


def _scaled_product(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """scaling * left @ right of two batches of matrices, in one call."""
    return torch.baddbmm(left.new_zeros(()), left, right, beta=0, alpha=scaling)


def _shares(queries_GQS: Tensor, keys_GMS: Tensor, block: Block, repeats: int, scaling: float) -> Tensor:
    """What each query of a block takes from every key it reaches, [G, Q * R, M].

    The block's own tokens are the last of these keys. Foreign queries take nothing, so nothing flows back from them.
    """
    scores = _scaled_product(queries_GQS, keys_GMS[:, : block.reach].transpose(1, 2), scaling)
    length = block.last - block.first
    triangle = _triangle(QUERIES_AT_ONCE, repeats, scores.dtype, scores.device)
    scores[:, :, block.reach - length :].add_(triangle[: length * repeats, :length])
    shares = torch.softmax(scores, dim=-1)
    if block.foreign:
        shares[:, (length - block.foreign) * repeats :].zero_()
    return shares


class _Context(Protocol):
    """What torch hands to both directions of the function."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]
    documents: Documents
    scaling: float

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _DocumentAttention(torch.autograd.Function):
    """Inputs query [G, T, R, S], key and value [G, P + T, S]; output like query."""

    @staticmethod
    def forward(
        ctx: _Context, query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float
    ) -> Tensor:
        repeats = query.shape[2]
        query, out = query.contiguous(), torch.empty(query.shape, dtype=query.dtype)
        queries_GTS, out_GTS = query.flatten(1, 2), out.flatten(1, 2)
        kept: list[Tensor] = []
        for document in documents_in_blocks(documents):
            keys, values = _seen(key, document), _seen(value, document)
            for block in document.blocks:
                rows = slice(block.first * repeats, block.last * repeats)
                shares = _shares(queries_GTS[:, rows], keys, block, repeats, scaling)
                out_GTS[:, rows] = torch.bmm(shares, values[:, : block.reach])
                if document.is_kept and any(ctx.needs_input_grad[:3]):
                    kept.append(shares)
        ctx.documents, ctx.scaling = documents, scaling
        ctx.save_for_backward(query, key, value, *kept)
        return out

    @staticmethod
    def backward(ctx: _Context, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        documents, scaling = ctx.documents, ctx.scaling
        repeats = query.shape[2]
        query_grad, key_grad, value_grad = (torch.empty(each.shape, dtype=each.dtype) for each in (query, key, value))
        for whole in (key_grad, value_grad):
            whole[:, : documents.unread] = 0  # no document of its own writes there, all add to it
        queries_GTS, query_grad_GTS = query.flatten(1, 2), query_grad.flatten(1, 2)
        out_grad_GTS = grad_outputs[0].contiguous().flatten(1, 2)
        stock = iter(kept)
        for document in documents_in_blocks(documents):
            keys, values = _seen(key, document), _seen(value, document)
            shares_of = [next(stock) for _ in document.blocks] if document.is_kept else None
            keys_grad = values_grad = None
            # Last block first: it sees every key, so that what it gives starts the sums of the others.
            for place in reversed(range(len(document.blocks))):
                block = document.blocks[place]
                rows = slice(block.first * repeats, block.last * repeats)
                queries, out_grad = queries_GTS[:, rows], out_grad_GTS[:, rows]
                shares = shares_of[place] if shares_of else _shares(queries, keys, block, repeats, scaling)
                values_grad = _add_product(values_grad, shares.transpose(1, 2), out_grad, 1.0)
                shares_grad = torch.bmm(out_grad, values[:, : block.reach].transpose(1, 2))
                scores_grad = torch.ops.aten._softmax_backward_data(shares_grad, shares, -1, shares.dtype)
                query_grad_GTS[:, rows] = _scaled_product(scores_grad, keys[:, : block.reach], scaling)
                keys_grad = _add_product(keys_grad, scores_grad.transpose(1, 2), queries, scaling)
            if keys_grad is not None and values_grad is not None:
                _put_seen(key_grad, keys_grad, document)
                _put_seen(value_grad, values_grad, document)
        return query_grad, key_grad, value_grad, None, None


def _seen(whole_GTS: Tensor, document: Document) -> Tensor:
    """Keys or values a document may see, [G, M, S]."""
    return _joined(whole_GTS, document.computed, document.before)


def _joined(whole_GTS: Tensor, span: Span, before: tuple[Span, ...]) -> Tensor:
    own = whole_GTS[:, slice(*span)]
    return torch.cat([*(whole_GTS[:, slice(*each)] for each in before), own], dim=1) if before else own


def _add_product(sum_GMS: Tensor | None, left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """scaling * left @ right, added onto the first rows of a sum that has begun."""
    if sum_GMS is None:
        return _scaled_product(left, right, scaling)
    sum_GMS[:, : left.shape[1]].baddbmm_(left, right, alpha=scaling)
    return sum_GMS


def _put_seen(whole_GTS: Tensor, part_GMS: Tensor, document: Document) -> None:
    """Write a document's own gradients, and add those of the documents before it, which were written earlier."""
    done = 0
    for first, last in document.before:
        whole_GTS[:, first:last] += part_GMS[:, done : done + last - first]
        done += last - first
    first, last = document.span
    whole_GTS[:, first:last] = part_GMS[:, done : done + last - first]


def _library_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float) -> Tensor:
    """The same by torch's own attention, a document at a time: for accelerators, whose kernels are good."""
    groups, _, repeats, size = query.shape
    parts: list[Tensor] = []
    for span, before in documents.chains():
        keys, values = _joined(key, span, before), _joined(value, span, before)
        own = slice(span[0] - documents.unread, span[1] - documents.unread)
        queries_HLS = query[:, own].transpose(1, 2).reshape(1, groups * repeats, -1, size)
        length, reach = queries_HLS.shape[2], keys.shape[1]
        bias = None
        if reach != length:
            bias = torch.full((length, reach), float("-inf"), dtype=query.dtype, device=query.device)
            bias = bias.triu(reach - length + 1)
        part = scaled_dot_product_attention(
            queries_HLS,
            keys[None],
            values[None],
            attn_mask=bias,
            is_causal=bias is None,
            scale=scaling,
            enable_gqa=True,
        )
        parts.append(part.reshape(groups, repeats, length, size).transpose(1, 2))
    return torch.cat(parts, dim=1)


def document_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents, scaling: float) -> Tensor:
    """Causal attention inside documents.

    Args:
        query: [G, T, R, S], the R query heads of a key head side by side.
        key, value: [G, P + T, S], the P learned ones first.
        documents: where documents lie among the keys.
        scaling: factor of the products, usually S ** -0.5.

    Returns:
        [G, T, R, S].
    """
    if query.device.type != "cpu":
        return _library_attention(query, key, value, documents, scaling)
    out: Tensor = _DocumentAttention.apply(query, key, value, documents, scaling)  # type: ignore[no-untyped-call]
    return out


def learned_of(module: nn.Module, learned: object) -> Tensor | None:
    """Learned keys and values of a layer, [2, G, P, S].

    Args:
        module: an attention layer; its `layer_idx` says which one it is.
        learned: those of every layer in order, or None.
    """
    if not isinstance(learned, tuple):
        return None
    of_layer: Tensor = learned[int(cast(int, module.layer_idx))]
    return of_layer


def behind_learned(module: nn.Module, key: Tensor, value: Tensor, learned: object) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer, [G, T, S], behind the learned ones that it has, if any: [G, P + T, S]."""
    before = learned_of(module, learned)
    if before is None:
        return key, value
    keys_GPS, values_GPS = before
    return torch.cat([keys_GPS, key], dim=1), torch.cat([values_GPS, value], dim=1)


def check_window(documents: Documents, window: int | None) -> None:
    """Refuse documents longer than a sliding window. Errors: packed.window_short."""
    longest = documents.longest_reach()
    if window is not None and longest > window:
        raise TunesmithError("packed.window_short", window=window, tokens=longest)


def packed_attention(
    module: nn.Module,
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
    learned: object = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention for transformers: query [1, H, T, S], key and value [1, G, T, S] -> [1, T, H, S].

    `documents` travels as an argument of the model's forward, and so do `learned` keys and values (`behind_learned`).
    Errors: packed.packed_only for padded batches, several sequences, attention dropout or a call without documents,
    packed.other_attention for capped scores and sinks, packed.window_short for a sliding window shorter than a
    document: this form would answer wrongly.
    """
    if documents is None or attention_mask is not None or query.shape[0] != 1 or dropout:
        raise TunesmithError("packed.packed_only")
    if softcap is not None or s_aux is not None:
        raise TunesmithError("packed.other_attention", part="softcap" if softcap is not None else "s_aux")
    check_window(documents, sliding_window)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    groups = key.shape[1]
    grouped = query[0].unflatten(0, (groups, -1)).transpose(1, 2)  # [G, T, R, S]
    out = document_attention(grouped, *behind_learned(module, key[0], value[0], learned), documents, scale)
    return out.transpose(0, 1).flatten(1, 2)[None], None


def _refuse_padding(*_: object, attention_mask: Tensor | None = None, **__: object) -> None:
    """The mask of a packed batch: none at all; a padded batch is refused."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise TunesmithError("packed.packed_only")


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _refuse_padding)
