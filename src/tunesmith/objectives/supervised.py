"""Supervised fine-tuning: cross-entropy on the marked tokens, averaged by their weights over the whole step."""

from __future__ import annotations

from torch import Tensor, nn

from tunesmith.models.packed import Packed
from tunesmith.recipe.specs.objectives import SupervisedSpec

TERM = "loss"


class Supervised:
    """One row term, counted in loss weight (tokens, where every weight is 1)."""

    def __init__(self, spec: SupervisedSpec) -> None:
        self._smoothing = spec.label_smoothing

    def count(self, batch: Packed) -> dict[str, float]:
        """Sum of the weights of the marked tokens."""
        return {TERM: float(batch.weight.double().sum())}

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """Weighted sum of the tokens' losses."""
        losses_K: Tensor = policy(batch, self._smoothing)
        return {TERM: (losses_K * batch.weight).sum()}

    def state(self) -> dict[str, object]:
        """Nothing to keep."""
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Nothing to take."""
