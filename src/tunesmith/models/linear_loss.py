"""A loss of the last linear layer's logits, only at the positions that carry loss, in chunks.

The logits of a chunk are made, used and dropped, so that [K, V] never stands in memory as a whole. While the head is
frozen, the gradient towards the hidden states is made in the same pass: the loss of a position depends on its own
hidden state alone, so it only has to be scaled in the backward pass.

Shape letters: K positions, W width of the hidden states, V vocabulary, P parts that a loss is told in.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.functional import linear

CHUNK = 256
"""Positions whose logits stand in memory together: 100 MB at a vocabulary of 49,152. 400 positions took 105 ms in
chunks of 64, 74 ms in chunks of 256 and 70 ms at once (width 576, bfloat16, two cores); the products alone 55 ms."""


class LogitLoss(Protocol):
    """A loss of every position that depends on its own logits alone."""

    parts: int
    """P: parts that it is told in; their sum is the loss."""

    def __call__(self, logits_KV: Tensor, chunk: slice, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """Parts [P, K] of the positions `chunk`, float32 or wider, and their sum's gradient, [K, V], where wanted.

        The logits may be overwritten.
        """


class CrossEntropy:
    """Negative log-likelihood of the targets, smoothed: -(1 - e) log p(target) - e mean(log p)
    (Szegedy et al. 2016, section 7)."""

    parts = 1

    def __init__(self, target_K: Tensor, smoothing: float = 0.0) -> None:
        self._target_K = target_K
        self._smoothing = smoothing

    def __call__(self, logits_KV: Tensor, chunk: slice, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """See `LogitLoss`.

        The normaliser comes from the most likely token, whose probability is at least 1 / V: softmax reads the logits
        once, logsumexp five times.
        """
        target_K, smoothing = self._target_K[chunk], self._smoothing
        wide = torch.promote_types(logits_KV.dtype, torch.float32)
        shares_KV = torch.softmax(logits_KV, dim=-1, dtype=wide)
        normaliser_K = logits_KV.amax(-1).to(wide) - shares_KV.amax(-1).log_()
        losses_K = normaliser_K - logits_KV.gather(1, target_K[:, None])[:, 0]
        if smoothing:
            losses_K = (1 - smoothing) * losses_K + smoothing * (normaliser_K - logits_KV.mean(dim=-1, dtype=wide))
        return losses_K[None], self._gradient(shares_KV, target_K) if gradient else None

    def _gradient(self, shares_KV: Tensor, target_K: Tensor) -> Tensor:
        """p - (1 - e) onehot - e / V. Overwrites the probabilities."""
        if self._smoothing:
            shares_KV.sub_(self._smoothing / shares_KV.shape[1])
        shares_KV[torch.arange(target_K.numel(), device=target_K.device), target_K] -= 1 - self._smoothing
        return shares_KV


class _LinearLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, hidden_KW: Tensor, weight_VW: Tensor, measure: LogitLoss) -> Tensor:
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]  # type: ignore[attr-defined]
        make_gradient = needs_hidden and not needs_weight
        wide = torch.promote_types(hidden_KW.dtype, torch.float32)
        parts_PK = torch.empty((measure.parts, hidden_KW.shape[0]), dtype=wide, device=hidden_KW.device)
        gradient_KW = torch.empty_like(hidden_KW) if make_gradient else None
        for first in range(0, hidden_KW.shape[0], CHUNK):
            chunk = slice(first, first + CHUNK)
            parts_PK[:, chunk], step_KV = measure(linear(hidden_KW[chunk], weight_VW), chunk, make_gradient)
            if gradient_KW is not None and step_KV is not None:
                gradient_KW[chunk] = step_KV.to(weight_VW.dtype) @ weight_VW
        ctx.measure = measure  # type: ignore[attr-defined]
        ctx.save_for_backward(*([gradient_KW] if gradient_KW is not None else [hidden_KW, weight_VW]))
        return parts_PK

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_PK = grad_outputs[0]
        grad_K = grad_PK[0]
        if len(grad_PK) > 1 and not bool((grad_PK == grad_K).all()):
            raise ValueError("the parts of a loss weigh alike: the gradient that was kept is that of their sum")
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        if len(saved) == 1:
            return (saved[0] * grad_K[:, None]).to(saved[0].dtype), None, None
        hidden_KW, weight_VW = saved
        measure: LogitLoss = ctx.measure  # type: ignore[attr-defined]
        hidden_grad_KW = torch.empty_like(hidden_KW)
        weight_grad_VW = torch.zeros(weight_VW.shape, dtype=torch.promote_types(weight_VW.dtype, torch.float32))
        weight_grad_VW = weight_grad_VW.to(weight_VW.device)
        for first in range(0, hidden_KW.shape[0], CHUNK):
            chunk = slice(first, first + CHUNK)
            _, step_KV = measure(linear(hidden_KW[chunk], weight_VW), chunk, True)
            if step_KV is not None:
                step_KV = (step_KV * grad_K[chunk, None]).to(weight_VW.dtype)
                hidden_grad_KW[chunk] = step_KV @ weight_VW
                weight_grad_VW += step_KV.T @ hidden_KW[chunk]
        return hidden_grad_KW, weight_grad_VW.to(weight_VW.dtype), None


def linear_loss(hidden_KW: Tensor, weight_VW: Tensor, measure: LogitLoss) -> Tensor:
    """Parts of the loss of every position, [P, K] float32 or wider; they must be weighted alike before `backward`."""
    parts_PK: Tensor = _LinearLoss.apply(hidden_KW, weight_VW, measure)  # type: ignore[no-untyped-call]
    return parts_PK


def linear_cross_entropy(hidden_KW: Tensor, weight_VW: Tensor, target_K: Tensor, smoothing: float = 0.0) -> Tensor:
    """Loss of every position, [K] float32 or wider.

    What cross_entropy(hidden @ weight.T, target, reduction="none") gives.
    """
    return linear_loss(hidden_KW, weight_VW, CrossEntropy(target_K, smoothing))[0]
