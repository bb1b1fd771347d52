"""The domain classifier and what turns its gradient round (Ganin et al. 2016, 1505.07818).

    forward    R(x) = x
    backward   dR/dx = -lambda        lambda(p) = max (2 / (1 + exp(-gamma p)) - 1), p the share of steps done

So one backward pass makes the classifier better at telling the domains apart, and the model below it worse to tell.

Shape letters: R rows of a batch, W width of their features, H width of the inner layer.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from tunesmith.core.seed import derive_seed
from tunesmith.recipe.specs.objectives import ReversalSpec


def reversal_factor(spec: ReversalSpec, progress: float) -> float:
    """lambda after a share of the steps, 0 to 1: it starts at 0, while the classifier knows nothing."""
    return spec.max_lambda * (2 / (1 + math.exp(-spec.gamma * progress)) - 1)


class _Reversed(torch.autograd.Function):
    """What comes back through it is turned round and scaled."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, features_RW: Tensor, factor: float) -> Tensor:
        ctx.factor = factor  # type: ignore[attr-defined]
        return features_RW.view_as(features_RW)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None  # type: ignore[attr-defined]


def reverse_gradient(features_RW: Tensor, factor: float) -> Tensor:
    """The features themselves; their gradient is -`factor` times what flows back."""
    return cast(Tensor, _Reversed.apply(features_RW, factor))  # type: ignore[no-untyped-call]


class DomainClassifier(nn.Module):
    """Guesses from features whether a row is of the target domain: one inner layer of rectified units.

    Args:
        width: W.
        hidden_size: H.
        dtype: of its numbers, float32 or wider whatever the model's are.
        seed: draws its first numbers, by He et al. 2015 (1502.01852).
    """

    def __init__(self, width: int, hidden_size: int, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden_size, dtype=dtype)
        self.output = nn.Linear(hidden_size, 1, dtype=dtype)
        for place, layer in enumerate((self.hidden, self.output)):
            generator = torch.Generator().manual_seed(derive_seed(seed, "domain classifier", place))
            drawn = torch.randn(layer.weight.shape, generator=generator) * math.sqrt(2 / layer.in_features)
            with torch.no_grad():
                layer.weight.copy_(drawn)
                layer.bias.zero_()

    def forward(self, features_RW: Tensor) -> Tensor:
        """Scores [R], above 0 where it guesses the target domain."""
        scores_R1: Tensor = self.output(torch.relu(self.hidden(features_RW.to(self.hidden.weight.dtype))))
        return scores_R1[:, 0]
