"""Policy: the model, and whatever trains beside it, under one root, so that DDP and FSDP2 see all of it.

Shape letters: T tokens, D documents, K positions whose logits are needed, W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.core.errors import TunesmithError
from tunesmith.models.attention import PACKED_ATTENTION
from tunesmith.models.beginning import decoder_arguments
from tunesmith.models.blocks import ends_in_fast_block
from tunesmith.models.halves import upper_half
from tunesmith.models.linear_loss import LogitLoss, linear_cross_entropy, linear_loss
from tunesmith.models.packed import Packed

_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""What some architectures do to the logits; the loss here is of the head's plain product."""


def _check_head(model: PreTrainedModel) -> None:
    """Refuse a model whose logits are more than hidden states times a matrix: its loss would be another one."""
    config = model.config.get_text_config()
    found = [name for name in _AFTER_THE_HEAD if getattr(config, name, None) not in (None, 1, 1.0)]
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        found.append("lm_head.bias")
    if found:
        raise TunesmithError("packed.other_head", architecture=str(config.model_type), part=", ".join(found))


class Policy(nn.Module):
    """A causal language model over packed batches.

    `blocks_kept` are the first blocks whose outputs come with the batches (`Packed.below`) and are not run again. `own`
    is the objective's own module, if it has one: it trains and is saved in checkpoints, and is no part of the model.
    `first_position` is what the model calls the place of a document's first token.

    Args:
        model: the causal model; its attention is switched to the packed form, which touches only this instance.

    Errors: packed.other_head.
    """

    attention = PACKED_ATTENTION
    first_position = 0

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.check_head(model)
        self.model = model
        self.own: nn.Module | None = None
        self.blocks_kept = 0
        model.set_attn_implementation(self.attention)

    def check_head(self, model: PreTrainedModel) -> None:
        """Refuse a model whose scores are not computed here as it computes them. Errors: packed.other_head."""
        _check_head(model)

    @property
    def head(self) -> Tensor:
        """The matrix that makes scores of hidden states, [V, W]."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @contextmanager
    def answering(self) -> Iterator[PreTrainedModel]:
        """The model with padded attention and in evaluation mode, for generation; as before afterwards."""
        training = self.training
        self.eval()
        self.model.set_attn_implementation("sdpa")
        try:
            yield self.model
        finally:
            self.model.set_attn_implementation(self.attention)
            self.train(training)

    @property
    def head_width(self) -> int:
        """W: numbers of a hidden state as a head reads it."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def hidden(self, batch: Packed) -> Tensor:
        """Last hidden states after the final norm at `batch.keep`, [K, W]."""
        if batch.below is not None and self.blocks_kept:
            positions = self.positions(batch.position_ids)
            return upper_half(self.model, batch.below, batch, positions, self.blocks_kept)
        arguments = decoder_arguments(self.model, batch)
        arguments["position_ids"] = self.positions(arguments["position_ids"])
        hidden: Tensor = self.model.base_model(**arguments, use_cache=False).last_hidden_state[0]
        return hidden[: batch.keep.numel()] if ends_in_fast_block(self.model) else hidden[arguments["keep"]]

    def positions(self, position_ids: Tensor) -> Tensor:
        """Positions counted from 0 as the model counts them."""
        return position_ids + self.first_position if self.first_position else position_ids

    def forward(self, batch: Packed, label_smoothing: float = 0.0, measure: LogitLoss | None = None) -> Tensor:
        """Negative log-likelihood of `batch.target` at `batch.keep`, [K] float32 or wider, unweighted.

        With `measure` the parts of that loss, [P, K].
        """
        if measure is not None:
            return linear_loss(self.hidden(batch), self.head, measure)
        return linear_cross_entropy(self.hidden(batch), self.head, batch.target, label_smoothing)

    def scores_and_target(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """Logits at `batch.keep`, [K, V] float32 or wider, and what they are held against, as `batch.target`."""
        return self.logits(batch), batch.target

    def logits(self, batch: Packed) -> Tensor:
        """Logits at `batch.keep`, [K, V] float32 or wider: for measuring, not for training."""
        head = self.model.get_output_embeddings()
        logits_KV: Tensor = head(self.hidden(batch))
        return logits_KV.to(torch.promote_types(logits_KV.dtype, torch.float32))
