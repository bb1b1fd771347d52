"""Attention of packed batches in both directions: every token attends to all tokens of its document, and to the
learned keys and values before it, if there are any.

Documents are laid side by side in a few bands of equal padded length, and one product of a band does what a loop over
its documents would: with texts of a dozen tokens the loop's calls, not its arithmetic, would be the time.

Shape letters: T tokens of the batch, P learned places, D documents of a band, L its padded length, H heads, S size of a
head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from tunesmith.core.errors import TunesmithError
from tunesmith.models.attention import learned_of
from tunesmith.models.packed import Documents

PACKED_ENCODER_ATTENTION = "tunesmith_packed_encoder"
"""Name under which transformers finds it."""
_GRAIN = 8
"""Lengths of a band are multiples of this: few bands, little padding, few shapes of products."""


@dataclass(frozen=True)
class Band:
    """Documents of like length: where in the batch each of their tokens lies, and which are padding."""

    places: Tensor  # [D * L], padding points at the document's first token
    padding: Tensor  # [D, 1, 1, L], -inf where a key is padding, else 0
    rows: Tensor  # [tokens of the band], places within D * L that are no padding
    documents: Tensor  # [D] their numbers in the batch
    length: int


def padded_length(tokens: int) -> int:
    """Tokens that a document of so many is computed as."""
    return -(-tokens // _GRAIN) * _GRAIN


@lru_cache(maxsize=4)
def bands(documents: Documents, device: torch.device, dtype: torch.dtype) -> tuple[tuple[Band, ...], Tensor]:
    """The bands of a batch, and where each token of it stands in their outputs laid end to end, [T].

    Errors: packed.packed_only for documents that continue others.
    """
    with torch.inference_mode(mode=False):  # a batch of training may meet what a validation has kept
        return _bands(documents, device, dtype)


def _bands(documents: Documents, device: torch.device, dtype: torch.dtype) -> tuple[tuple[Band, ...], Tensor]:
    unread = documents.unread
    by_length: dict[int, list[tuple[int, int, int]]] = {}
    for number, ((first, last), before) in enumerate(documents.chains()):
        if before and before != ((0, unread),):
            raise TunesmithError("packed.packed_only")
        by_length.setdefault(padded_length(last - first), []).append((first - unread, last - unread, number))
    found = [_band(length, each, device, dtype) for length, each in sorted(by_length.items())]
    order = torch.cat([band.places[band.rows] for band in found]) if found else torch.zeros(0, dtype=torch.long)
    return tuple(found), order.argsort()


def _band(length: int, documents: list[tuple[int, int, int]], device: torch.device, dtype: torch.dtype) -> Band:
    """The band of documents with their first token, the one behind their last, and their number."""
    first_D, last_D, numbers_D = torch.tensor(documents, device=device)[:, None].unbind(2)
    places_DL = first_D + torch.arange(length, device=device)
    is_padding_DL = places_DL >= last_D
    padding = torch.zeros(is_padding_DL.shape, dtype=dtype, device=device).masked_fill_(is_padding_DL, float("-inf"))
    places = torch.where(is_padding_DL, first_D, places_DL).flatten()
    rows = (~is_padding_DL).flatten().nonzero()[:, 0]
    return Band(places, padding[:, None, None], rows, numbers_D[:, 0], length)


def encoder_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    documents: Documents | None = None,
    learned: object = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention for transformers: query, key and value [1, H, T, S] -> [1, T, H, S].

    `documents` travels as an argument of the model's forward, and so do `learned` keys and values, of every layer
    [2, H, P, S]. `dropout` is the share of attention's shares that is dropped, as transformers does.
    Errors: packed.packed_only for padded batches, several sequences or a call without documents.
    """
    if documents is None or attention_mask is not None or query.shape[0] != 1:
        raise TunesmithError("packed.packed_only")
    found, order_T = bands(documents, query.device, query.dtype)
    factor = scaling if scaling is not None else query.shape[-1] ** -0.5
    tokens_first = [each[0].transpose(0, 1) for each in (query, key, value)]  # [T, H, S]
    before = learned_of(module, learned)
    parts = [_band_attention(band, tokens_first, before, factor, dropout) for band in found]
    out_THS = torch.cat(parts)[order_T]
    return out_THS[None], None


def _band_attention(
    band: Band, tokens_first: list[Tensor], before: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """Outputs of the tokens of a band, in its order, [tokens, H, S]; `before` are learned keys and values."""
    queries, keys, values = (
        each.index_select(0, band.places).unflatten(0, (-1, band.length)).transpose(1, 2) for each in tokens_first
    )  # [D, H, L, S]
    padding = band.padding
    if before is not None:
        keys, values = (_behind(each, own) for each, own in zip(before, (keys, values), strict=True))
        padding = pad(padding, (before.shape[2], 0))
    scores_DHLM = (queries * scaling) @ keys.transpose(-1, -2) + padding
    out_DHLS: Tensor = _shares(scores_DHLM, dropout) @ values
    return out_DHLS.transpose(1, 2).flatten(0, 1).index_select(0, band.rows)


def _shares(scores: Tensor, dropout: float) -> Tensor:
    """What each key counts with: the softmax of the scores, of which dropout leaves 1 - p, scaled up by as much."""
    shares = torch.softmax(scores, dim=-1)
    return drop(shares, dropout) if dropout else shares


def _behind(before_HPS: Tensor, own_DHLS: Tensor) -> Tensor:
    """The same learned keys or values before those of every document, [D, H, P + L, S]."""
    return torch.cat([before_HPS.expand(own_DHLS.shape[0], -1, -1, -1), own_DHLS], dim=2)


def attention_at(
    query_DHS: Tensor,
    key_THS: Tensor,
    value_THS: Tensor,
    documents: Documents,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """What one token of every document takes from all tokens of its document, [D, H, S]."""
    found, _ = bands(documents, query_DHS.device, query_DHS.dtype)
    parts: list[Tensor] = []
    for band in found:
        queries = query_DHS.index_select(0, band.documents)[:, :, None]
        keys, values = (
            each.index_select(0, band.places).unflatten(0, (-1, band.length)).transpose(1, 2)
            for each in (key_THS, value_THS)
        )
        scores_DH1L = (queries * scaling) @ keys.transpose(-1, -2) + band.padding
        parts.append((_shares(scores_DH1L, dropout) @ values)[:, :, 0])
    order = torch.cat([band.documents for band in found]).argsort()
    return torch.cat(parts)[order]


def _refuse_padding(*_: object, attention_mask: Tensor | None = None, **__: object) -> None:
    """The mask of a packed batch: none at all; a padded batch is refused."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise TunesmithError("packed.packed_only")


AttentionInterface.register(PACKED_ENCODER_ATTENTION, encoder_attention)
AttentionMaskInterface.register(PACKED_ENCODER_ATTENTION, _refuse_padding)
