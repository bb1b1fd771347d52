"""Attention of packed batches in both directions: every token attends to all tokens of its document, and to the
learned keys and values before it, if there are any.

Documents are laid side by side in a few bands of equal padded length, and one product of a band does what a loop over
its documents would: with texts of a dozen tokens the loop's calls, not its arithmetic, would be the time.

Shape letters: T tokens of the batch, X places of all bands with their padding, P learned places, D documents of a band,
L its padded length, H heads, S size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
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
_ONE_BAND = 1.25
"""Padding is worth one band for all documents as long as it makes no more than so many times the places: a product of
a shape that has not been seen lately costs oneDNN 0.3 to 0.5 ms to prepare, several times what such a product takes."""


@dataclass(frozen=True)
class Band:
    """Documents of like length."""

    padding: Tensor  # [D, 1, 1, L], -inf where a key is padding, else 0
    documents: Tensor  # [D] their numbers in the batch
    length: int

    @property
    def places(self) -> int:
        """Tokens and padding together."""
        return len(self.documents) * self.length


@dataclass(frozen=True)
class Bands:
    """The bands of a batch, end to end, and where each token stands in them."""

    bands: tuple[Band, ...]
    token: Tensor  # [X] the token at each place; padding points at its document's first
    place: Tensor  # [T] the place of each token
    is_token: Tensor  # [X, 1, 1] 0 where a place is padding, else 1

    def laid(self, rows: Tensor) -> list[Tensor]:
        """What tokens hold, [T, ...], laid out band by band, [D, L, ...] each. Nothing may flow back from padding."""
        parts = _moved(rows, self.token, self.place).split([band.places for band in self.bands])
        return [part.unflatten(0, (-1, band.length)) for band, part in zip(self.bands, parts, strict=True)]

    def gathered(self, laid: Sequence[Tensor]) -> Tensor:
        """The way back: of bands [D, L, H, S] what the tokens hold, [T, H, S]."""
        laid_XHS = torch.cat([part.flatten(0, 1) for part in laid])
        return _moved(laid_XHS, self.place, self.token, self.is_token)


class _Context(Protocol):
    """What torch hands to both directions of a function."""

    saved_tensors: tuple[Tensor, Tensor | None]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


class _Moved(torch.autograd.Function):
    """Rows of a tensor in another order: what is learned flows back by looking each row up, not by adding into it.

    torch adds, because a row might be asked for twice, and does so one by one: on banking77 a fifth of a step.
    """

    @staticmethod
    def forward(ctx: _Context, rows: Tensor, wanted: Tensor, back: Tensor, counts: Tensor | None) -> Tensor:
        """`rows[wanted]`; backward `gradient[back]`, times `counts` where a row came from nowhere."""
        ctx.save_for_backward(back, counts)
        return rows.index_select(0, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of `rows`."""
        back, counts = ctx.saved_tensors
        found = gradient.index_select(0, back)
        return found if counts is None else found * counts, None, None, None


def _moved(rows: Tensor, wanted: Tensor, back: Tensor, counts: Tensor | None = None) -> Tensor:
    found: Tensor = _Moved.apply(rows, wanted, back, counts)  # type: ignore[no-untyped-call]
    return found


def padded_lengths(lengths: Sequence[int]) -> list[int]:
    """Tokens that documents of so many are computed as: those of the longest, or of the next multiple of the grain."""
    rounded = [-(-tokens // _GRAIN) * _GRAIN for tokens in lengths]
    longest = max(rounded, default=0)
    return [longest] * len(rounded) if longest * len(rounded) <= _ONE_BAND * sum(rounded) else rounded


@lru_cache(maxsize=4)
def bands(documents: Documents, device: torch.device, dtype: torch.dtype) -> Bands:
    """The bands of a batch. Errors: packed.packed_only for documents that continue others."""
    with torch.inference_mode(mode=False):  # a batch of training may meet what a validation has kept
        return _bands(documents, device, dtype)


def _bands(documents: Documents, device: torch.device, dtype: torch.dtype) -> Bands:
    unread, chains = documents.unread, list(documents.chains())
    if any(before and before != ((0, unread),) for _, before in chains):
        raise TunesmithError("packed.packed_only")
    by_length: dict[int, list[tuple[int, int, int]]] = {}
    padded = padded_lengths([last - first for (first, last), _ in chains])
    for number, (((first, last), _), length) in enumerate(zip(chains, padded, strict=True)):
        by_length.setdefault(length, []).append((first - unread, last - unread, number))
    found: list[Band] = []
    tokens, are_tokens = [], []
    for length, each in sorted(by_length.items()):
        first_D1, last_D1, numbers_D1 = torch.tensor(each, device=device)[:, None].unbind(2)
        token_DL = first_D1 + torch.arange(length, device=device)
        is_token_DL = token_DL < last_D1
        padding_DL = torch.zeros(token_DL.shape, dtype=dtype, device=device).masked_fill_(~is_token_DL, float("-inf"))
        found.append(Band(padding_DL[:, None, None], numbers_D1[:, 0], length))
        tokens.append(torch.where(is_token_DL, token_DL, first_D1).flatten())
        are_tokens.append(is_token_DL.flatten())
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    token_X, is_token_X = torch.cat([nothing, *tokens]), torch.cat([nothing.bool(), *are_tokens])
    real = is_token_X.nonzero()[:, 0]
    place_T = real[token_X[real].argsort()]
    return Bands(tuple(found), token_X, place_T, is_token_X.to(dtype)[:, None, None])


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
    laid = bands(documents, query.device, query.dtype)
    factor = scaling if scaling is not None else query.shape[-1] ** -0.5
    before = learned_of(module, learned)
    queries, keys, values = (heads_first(laid.laid(each[0].transpose(0, 1))) for each in (query, key, value))
    parts = [
        _band_attention(query_DHLS, key_DHLS, value_DHLS, band.padding, before, factor, dropout)
        for query_DHLS, key_DHLS, value_DHLS, band in zip(queries, keys, values, laid.bands, strict=True)
    ]
    return laid.gathered([part.transpose(1, 2) for part in parts])[None], None


def heads_first(laid: Sequence[Tensor]) -> list[Tensor]:
    """Of bands [D, L, H, S] the same numbers as [D, H, L, S]."""
    return [each.transpose(1, 2) for each in laid]


def _band_attention(
    query_DHLS: Tensor,
    key_DHLS: Tensor,
    value_DHLS: Tensor,
    padding: Tensor,
    before: Tensor | None,
    scaling: float,
    dropout: float,
) -> Tensor:
    """Outputs of the places of a band, [D, H, L, S]; `before` are learned keys and values."""
    if before is not None:
        key_DHLS, value_DHLS = (_behind(each, own) for each, own in zip(before, (key_DHLS, value_DHLS), strict=True))
        padding = pad(padding, (before.shape[2], 0))
    scores_DHLM = (query_DHLS * scaling) @ key_DHLS.transpose(-1, -2) + padding
    out_DHLS: Tensor = _shares(scores_DHLM, dropout) @ value_DHLS
    return out_DHLS


def _shares(scores: Tensor, dropout: float) -> Tensor:
    """What each key counts with: the softmax of the scores, of which dropout leaves 1 - p, scaled up by as much."""
    shares = torch.softmax(scores, dim=-1)
    return drop(shares, dropout) if dropout else shares


def _behind(before_HPS: Tensor, own_DHLS: Tensor) -> Tensor:
    """The same learned keys or values before those of every document, [D, H, P + L, S]."""
    return torch.cat([before_HPS.expand(own_DHLS.shape[0], -1, -1, -1), own_DHLS], dim=2)


def attention_at(
    query_DHS: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    laid: Bands,
    scaling: float,
    dropout: float = 0.0,
) -> Tensor:
    """What one token of every document takes from all tokens of its document, [D, H, S].

    Args:
        keys, values: of every band, [D, L, H, S].
    """
    order_D = torch.cat([band.documents for band in laid.bands])
    back_D = order_D.argsort()
    ordered_DH1S = _moved(query_DHS * scaling, order_D, back_D)[:, :, None]
    queries = ordered_DH1S.split([len(band.documents) for band in laid.bands])
    parts: list[Tensor] = []
    for band, query_DH1S, key_DHLS, value_DHLS in zip(
        laid.bands, queries, heads_first(keys), heads_first(values), strict=True
    ):
        scores_DH1L = query_DH1S @ key_DHLS.transpose(-1, -2) + band.padding
        parts.append((_shares(scores_DH1L, dropout) @ value_DHLS)[:, :, 0])
    return _moved(torch.cat(parts), back_D, order_D)


def _refuse_padding(*_: object, attention_mask: Tensor | None = None, **__: object) -> None:
    """The mask of a packed batch: none at all; a padded batch is refused."""
    if attention_mask is not None and not bool(attention_mask.all()):
        raise TunesmithError("packed.packed_only")


AttentionInterface.register(PACKED_ENCODER_ATTENTION, encoder_attention)
AttentionMaskInterface.register(PACKED_ENCODER_ATTENTION, _refuse_padding)
