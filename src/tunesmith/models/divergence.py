"""How far a student's next-token distribution is from its teacher's: the loss of distillation, in chunks.

    (1 - a) CE(target, u)  +  a T^2 KL(p || q)        p = softmax(t / T), q = softmax(u / T)

of the teacher's logits t and the student's u (Hinton et al. 2015, 1503.02531, section 2; T^2 keeps the size of the
gradient whatever T). Of a teacher whose k most likely tokens were kept, the rest of its mass is one bucket:

    KL = sum over the k tokens of p log(p / q)  +  r log(r / s)        r, s: mass of the rest in p and in q

which is the whole divergence where k is the vocabulary, and never more than it (the log sum inequality). Its gradient
towards u is (q - m) / T with m = p on the k tokens and r q / s on the rest.

Shape letters: K positions, V vocabulary, N tokens that were kept (k above).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from tunesmith.models.linear_loss import CrossEntropy

_LEAST = 1e-30
"""Least mass of a bucket: its logarithm stays a number."""


class Wanted(Protocol):
    """The teacher's distribution at a temperature, for the positions of a batch."""

    def of(self, chunk: slice) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of positions: [K, V] and None, or those of the kept tokens, [K, N], and their ids."""


class Computed:
    """Of a teacher in memory: its last hidden states [K, W'] and its head.

    Heads of one tokenizer may be padded to different numbers of rows; `vocabulary` is the student's.
    """

    def __init__(self, hidden_KW: Tensor, weight_VW: Tensor, vocabulary: int, temperature: float) -> None:
        self._hidden_KW = hidden_KW
        self._weight_VW = weight_VW
        self._vocabulary = vocabulary
        self._temperature = temperature

    def of(self, chunk: slice) -> tuple[Tensor, Tensor | None]:
        """See `Wanted`."""
        logits_KV = linear(self._hidden_KW[chunk], self._weight_VW)
        missing = self._vocabulary - logits_KV.shape[1]  # a negative pad cuts
        logits_KV = pad(logits_KV, (0, missing), value=-torch.inf) if missing else logits_KV
        return at_temperature(logits_KV, self._temperature), None


class Kept:
    """Of a teacher whose most likely tokens stand in a cache."""

    def __init__(self, log_shares_KN: Tensor, ids_KN: Tensor) -> None:
        self._log_shares_KN = log_shares_KN
        self._ids_KN = ids_KN

    def of(self, chunk: slice) -> tuple[Tensor, Tensor | None]:
        """See `Wanted`."""
        return self._log_shares_KN[chunk], self._ids_KN[chunk].long()


def at_temperature(logits_KV: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of logits at a temperature, [K, V] float32 or wider."""
    wide = torch.promote_types(logits_KV.dtype, torch.float32)
    return torch.log_softmax(logits_KV.to(wide) / temperature, dim=-1)


class Divergence:
    """The loss above in two parts, cross-entropy and divergence; the first is left out where a is 1.

    Args:
        temperature: T.
        alpha: a, the share of the divergence.
    """

    def __init__(self, wanted: Wanted, target_K: Tensor, temperature: float, alpha: float) -> None:
        self.parts = 1 if alpha == 1 else 2
        self._wanted = wanted
        self._hard = CrossEntropy(target_K)
        self._temperature = temperature
        self._alpha = alpha

    def __call__(self, logits_KV: Tensor, chunk: slice, gradient: bool) -> tuple[Tensor, Tensor | None]:
        """See `LogitLoss`."""
        scale = self._alpha * self._temperature**2
        soft_K, step_KV = self._soft(logits_KV, chunk)
        parts = [scale * soft_K]
        step_KV.mul_(scale)
        if self.parts == 2:
            hard_PK, hard_KV = self._hard(logits_KV, chunk, gradient)
            parts.insert(0, (1 - self._alpha) * hard_PK[0])
            if hard_KV is not None:
                step_KV.add_(hard_KV, alpha=1 - self._alpha)
        return torch.stack(parts), step_KV if gradient else None

    def _soft(self, logits_KV: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
        """KL divergence [K] and its gradient towards the logits [K, V]."""
        log_q_KV = at_temperature(logits_KV, self._temperature)
        log_p, ids_KN = self._wanted.of(chunk)
        if ids_KN is None:
            p_KV = log_p.exp()
            losses_K = _relative(p_KV, log_p, log_q_KV)
            return losses_K, log_q_KV.exp_().sub_(p_KV).div_(self._temperature)
        p_KN = log_p.to(log_q_KV.dtype).exp()
        log_q_KN = log_q_KV.gather(1, ids_KN)
        losses_K = _relative(p_KN, log_p, log_q_KN)
        step_KV = log_q_KV.exp_()  # q, which becomes q - m
        if ids_KN.shape[1] == step_KV.shape[1]:  # nothing is left for the bucket
            step_KV.scatter_add_(1, ids_KN, -p_KN)
            return losses_K, step_KV.div_(self._temperature)
        rest_K = (1 - p_KN.sum(-1)).clamp_min_(0)
        q_KN = log_q_KN.exp()
        # Summed without the kept tokens: 1 minus their sum would be noise where they hold nearly everything.
        step_KV.scatter_(1, ids_KN, 0.0)
        others_K = step_KV.sum(-1).clamp_min_(_LEAST)
        losses_K += torch.where(rest_K > 0, rest_K * (rest_K.clamp_min(_LEAST).log() - others_K.log()), 0.0)
        step_KV.mul_((1 - rest_K / others_K)[:, None])
        step_KV.scatter_(1, ids_KN, q_KN - p_KN)
        return losses_K, step_KV.div_(self._temperature)


def _relative(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    """Sum of p log(p / q) over the last axis; what p leaves out counts nothing."""
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
