"""A learned beginning: P places that stand before every row, the same for all rows, and train while the model stays.

    VirtualTokens   embeddings that the model reads like those of tokens: prompt tuning (Lester et al. 2021, 2104.08691)
                    and P-Tuning (Liu et al. 2021, 2103.10385)
    LearnedKeys     keys and values of every layer, and no token: prefix tuning (Li and Liang 2021, 2101.00190) and
                    P-Tuning v2 (Liu et al. 2021, 2110.07602)

The tokens of a row stand at positions P, P + 1 and so on. Attention looks back only, so virtual tokens are the same in
every layer whatever row follows: a packed batch holds them once, as the document that all others continue.

Shape letters: P places, W width, N numbers of a place, L layers, G key/value heads, S size of a head, T tokens.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tunesmith.core.errors import TunesmithError
from tunesmith.models.packed import Documents, Packed

BEGINNING = "beginning"
"""Name of the module in a model that has one."""


class Beginning(nn.Module):
    """A learned beginning.

    Args:
        encoder: gives numbers [1, P, N] for the places [1, P], as PEFT's prompt encoders do.
        length: P.
    """

    def __init__(self, encoder: nn.Module, length: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.length = length

    def forward(self) -> Tensor:
        """What is learned of each place, [P, N]."""
        places = torch.arange(self.length, device=next(self.parameters()).device)
        numbers_PN: Tensor = self.encoder(places[None])[0]
        return numbers_PN


class VirtualTokens(Beginning):
    """Embeddings; N = W."""

    def embeddings(self, dtype: torch.dtype) -> Tensor:
        """Of each virtual token, [P, W]."""
        embeddings_PW: Tensor = self().to(dtype)
        return embeddings_PW


class LearnedKeys(Beginning):
    """Keys and values of every layer, as they stand after rotary positions: N = L * 2 * G * S."""

    def __init__(self, encoder: nn.Module, length: int, layers: int, groups: int) -> None:
        super().__init__(encoder, length)
        self._layers, self._groups = layers, groups

    def by_layer(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Of every layer keys and values, [2, G, P, S]."""
        numbers_PN: Tensor = self().to(dtype)
        by_layer = numbers_PN.unflatten(1, (self._layers, 2, self._groups, -1)).permute(1, 2, 3, 0, 4)
        return tuple(by_layer.unbind(0))


def put_beginning(model: PreTrainedModel, beginning: Beginning) -> None:
    """Put a beginning before everything that the model reads by packed batches or by the engine of `generate`.

    Errors: packed.beginning_window where a layer that looks back over a window would lose it out of sight.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or getattr(config, "sliding_window", None) is not None:
        found = ", ".join(sorted(kinds)) or "sliding_window"
        raise TunesmithError("packed.beginning_window", architecture=str(config.model_type), kinds=found)
    model.add_module(BEGINNING, beginning)


def shape_of_keys(model: PreTrainedModel) -> tuple[int, int, int]:
    """L, G and S of a model."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return int(config.num_hidden_layers), int(getattr(config, "num_key_value_heads", None) or heads), size


def beginning_of(model: PreTrainedModel) -> Beginning | None:
    """The beginning of a model that has one."""
    found = getattr(model, BEGINNING, None)
    return found if isinstance(found, Beginning) else None


def places_before(model: PreTrainedModel) -> int:
    """P, or 0 for a model without a beginning."""
    beginning = beginning_of(model)
    return beginning.length if beginning is not None else 0


def keys_before(model: PreTrainedModel) -> tuple[Tensor, ...]:
    """Keys and values of every layer that stand before a row, [2, G, P, S]; none for a model without a beginning.

    The model reads virtual tokens itself, so its attention must be one that takes whole sequences, as in `generate`.
    """
    beginning = beginning_of(model)
    if isinstance(beginning, LearnedKeys):
        return beginning.by_layer(model.dtype)
    if not isinstance(beginning, VirtualTokens):
        return ()
    cache = DynamicCache(config=model.config)
    embeddings_PW = beginning.embeddings(model.dtype)
    model.get_decoder()(inputs_embeds=embeddings_PW[None], past_key_values=cache, use_cache=True)
    layers = cast(list[DynamicLayer], cache.layers)
    return tuple(torch.cat([cast(Tensor, layer.keys), cast(Tensor, layer.values)]) for layer in layers)


def context_of(model: PreTrainedModel) -> int:
    """Places that a model has positions for; without a stated end, more than anybody needs."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0)) or 2**31


def laid_out(model: PreTrainedModel, batch: Packed) -> Documents:
    """The documents of a batch behind the model's beginning, if it has one."""
    beginning, documents = beginning_of(model), Documents.of(batch)
    if beginning is None:
        return documents
    return documents.behind(beginning.length, unread=isinstance(beginning, LearnedKeys))


class DecoderArguments(TypedDict):
    """What the forward of a decoder is given for a packed batch of D documents.

    `keep` [K] are the positions whose hidden states are needed, among the T that are read. `learned` are keys and
    values of every layer before the first document, [2, G, P, S].
    """

    input_ids: NotRequired[Tensor]
    inputs_embeds: NotRequired[Tensor]
    position_ids: Tensor
    documents: Documents
    keep: Tensor
    learned: NotRequired[tuple[Tensor, ...]]


def decoder_arguments(model: PreTrainedModel, batch: Packed) -> DecoderArguments:
    """What the decoder reads of a batch, behind the model's beginning, if it has one."""
    beginning = beginning_of(model)
    arguments: DecoderArguments = {
        "input_ids": batch.token_ids[None],
        "position_ids": batch.position_ids[None],
        "documents": laid_out(model, batch),
        "keep": batch.keep,
    }
    if isinstance(beginning, LearnedKeys):
        arguments["learned"] = beginning.by_layer(model.dtype)
        arguments["position_ids"] = batch.position_ids[None] + beginning.length
    elif isinstance(beginning, VirtualTokens):
        embeddings_TW: Tensor = model.get_input_embeddings()(batch.token_ids)
        places = torch.arange(beginning.length, device=batch.position_ids.device)
        del arguments["input_ids"]
        arguments["inputs_embeds"] = torch.cat([beginning.embeddings(embeddings_TW.dtype), embeddings_TW])[None]
        arguments["position_ids"] = torch.cat([places, batch.position_ids + beginning.length])[None]
        arguments["keep"] = batch.keep + beginning.length
    return arguments
