"""Cross-entropy of the last linear layer, only at the positions that carry loss, in chunks.

The logits of a chunk are made, used and dropped, so that [K, V] never stands in memory as a whole. While the head is
frozen, the gradient towards the hidden states is made in the same pass: the loss of a position depends on its own
hidden state alone, so it only has to be scaled in the backward pass.

Shape letters: K positions, W width of the hidden states, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import linear

CHUNK = 256
"""Positions whose logits stand in memory together: 100 MB at a vocabulary of 49,152. 400 positions took 105 ms in
chunks of 64, 74 ms in chunks of 256 and 70 ms at once (width 576, bfloat16, two cores); the products alone 55 ms."""


def _chunk_losses(hidden_KW: Tensor, weight_VW: Tensor, target_K: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Loss [K] and probabilities [K, V], float32 or wider.

    The loss is -(1 - e) log p(target) - e mean(log p)  (Szegedy et al. 2016, section 7).

    The normaliser comes from the most likely token, whose probability is at least 1 / V: softmax reads the logits once,
    logsumexp five times.
    """
    logits_KV = linear(hidden_KW, weight_VW)
    wide = torch.promote_types(logits_KV.dtype, torch.float32)
    shares_KV = torch.softmax(logits_KV, dim=-1, dtype=wide)
    normaliser_K = logits_KV.amax(-1).to(wide) - shares_KV.amax(-1).log_()
    losses_K = normaliser_K - logits_KV.gather(1, target_K[:, None])[:, 0]
    if smoothing:
        losses_K = (1 - smoothing) * losses_K + smoothing * (normaliser_K - logits_KV.mean(dim=-1, dtype=wide))
    return losses_K, shares_KV


def _logit_gradient(shares_KV: Tensor, target_K: Tensor, smoothing: float) -> Tensor:
    """d loss / d logits, [K, V]: p - (1 - e) onehot - e / V. Overwrites the probabilities."""
    if smoothing:
        shares_KV.sub_(smoothing / shares_KV.shape[1])
    shares_KV[torch.arange(target_K.numel(), device=target_K.device), target_K] -= 1 - smoothing
    return shares_KV


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden_KW: Tensor, weight_VW: Tensor, target_K: Tensor, smoothing: float) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]  # type: ignore[attr-defined]
        make_gradient = needs_hidden and not needs_weight
        wide = torch.promote_types(hidden_KW.dtype, torch.float32)
        losses_K = torch.empty(hidden_KW.shape[0], dtype=wide, device=hidden_KW.device)
        gradient_KW = torch.empty_like(hidden_KW) if make_gradient else None
        for first in range(0, hidden_KW.shape[0], CHUNK):
            part = slice(first, first + CHUNK)
            losses_K[part], shares_KV = _chunk_losses(hidden_KW[part], weight_VW, target_K[part], smoothing)
            if gradient_KW is not None:
                step_KV = _logit_gradient(shares_KV, target_K[part], smoothing)
                gradient_KW[part] = step_KV.to(weight_VW.dtype) @ weight_VW
        ctx.smoothing = smoothing  # type: ignore[attr-defined]
        ctx.save_for_backward(*([gradient_KW] if gradient_KW is not None else [hidden_KW, weight_VW, target_K]))
        return losses_K

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_K = grad_outputs[0]
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        if len(saved) == 1:
            return (saved[0] * grad_K[:, None]).to(saved[0].dtype), None, None, None
        hidden_KW, weight_VW, target_K = saved
        smoothing: float = ctx.smoothing  # type: ignore[attr-defined]
        hidden_grad_KW = torch.empty_like(hidden_KW)
        weight_grad_VW = torch.zeros(weight_VW.shape, dtype=torch.promote_types(weight_VW.dtype, torch.float32))
        weight_grad_VW = weight_grad_VW.to(weight_VW.device)
        for first in range(0, hidden_KW.shape[0], CHUNK):
            part = slice(first, first + CHUNK)
            _, shares_KV = _chunk_losses(hidden_KW[part], weight_VW, target_K[part], smoothing)
            step_KV = _logit_gradient(shares_KV, target_K[part], smoothing)
            step_KV = (step_KV * grad_K[part, None]).to(weight_VW.dtype)
            hidden_grad_KW[part] = step_KV @ weight_VW
            weight_grad_VW += step_KV.T @ hidden_KW[part]
        return hidden_grad_KW, weight_grad_VW.to(weight_VW.dtype), None, None


def linear_cross_entropy(hidden_KW: Tensor, weight_VW: Tensor, target_K: Tensor, smoothing: float = 0.0) -> Tensor:
    """Loss of every position, [K] float32 or wider.

    What cross_entropy(hidden @ weight.T, target, reduction="none") gives.
    """
    losses: Tensor = _LinearCrossEntropy.apply(hidden_KW, weight_VW, target_K, smoothing)  # type: ignore[no-untyped-call]
    return losses
