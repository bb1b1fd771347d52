"""The loss contract: an objective gives sums, and only the loop divides.

For each optimizer step the loop draws the whole accumulation window, sums the counts of every term over
micro-batches and ranks, and divides each term by its own count. So the layout of a batch cannot change the loss.

A term whose unit is the window sees all of it first (`train/look_ahead.py`), so that what is left is such a sum too.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from tunesmith.models.packed import Packed

TOLD = "loss_of_"
"""How terms are named that are told of every step and neither part of its loss nor of its gradient."""
ACCURACY, LAMBDA = "domain_accuracy", "lambda"
"""Figures of two domains that are told in the same way."""


def is_told(name: str) -> bool:
    """Whether a term is told of every step, and neither part of its loss nor of its gradient."""
    return name.startswith(TOLD) or name in (ACCURACY, LAMBDA)


class Objective(Protocol):
    """What a stage is trained toward."""

    def count(self, batch: Packed) -> dict[str, float]:
        """Items of each term (tokens, pairs ...) on this rank, known before the forward pass."""

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """Sum of each term over this rank's items, scalars of float32 or wider."""

    def state(self) -> dict[str, object]:
        """What a checkpoint must hold of the objective."""

    def restore(self, state: dict[str, object]) -> None:
        """Take the state back."""
