"""Losses that are told beside those that train: of the new rows and of the old ones that a step replays.

    loss_of_new_rows, loss_of_old_rows    the mean over the positions of each, as the objective weighs them

The step's loss, whose gradient moves the weights, stays the mean over all its positions.

Shape letters: K positions, P parts of a loss.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from tunesmith.models.packed import Packed
from tunesmith.objectives.base import TOLD, Objective

NEW, OLD = f"{TOLD}new_rows", f"{TOLD}old_rows"


class OldRowsToldApart:
    """An objective over the policy's losses of positions, with the means of new and of old rows beside its terms.

    Args:
        old: numbers of the old rows.
    """

    def __init__(self, objective: Objective, old: Collection[int]) -> None:
        self._objective = objective
        self._old = frozenset(old)

    def count(self, batch: Packed) -> dict[str, float]:
        """Those of the objective, and the loss weight of new and of old rows."""
        weight_K, is_old_K = batch.weight.double(), self._is_old(batch)
        apart = {NEW: float(weight_K[~is_old_K].sum()), OLD: float(weight_K[is_old_K].sum())}
        return {**self._objective.count(batch), **apart}

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """The objective's sums, and those of new and of old rows without a gradient."""
        heard: list[Tensor] = []

        def hear(_module: nn.Module, _inputs: object, losses: Tensor) -> None:
            heard.append(losses.detach())

        handle = policy.register_forward_hook(hear)
        try:
            terms = self._objective.loss(policy, batch)
        finally:
            handle.remove()
        (losses,) = heard
        losses_K = losses if losses.ndim == 1 else losses.sum(0)  # [P, K] where the objective asks for its parts
        weighted_K = losses_K * batch.weight
        is_old_K = self._is_old(batch)
        return {**terms, NEW: weighted_K[~is_old_K].sum(), OLD: weighted_K[is_old_K].sum()}

    def state(self) -> dict[str, object]:
        """That of the objective."""
        return self._objective.state()

    def restore(self, state: dict[str, object]) -> None:
        """Take it back."""
        self._objective.restore(state)

    def _is_old(self, batch: Packed) -> Tensor:
        """Whether each kept position is of an old row, [K]."""
        of_document = [row in self._old for row in batch.row.tolist()]
        is_old_D = torch.tensor(of_document, dtype=torch.bool, device=batch.row.device)
        return is_old_D[batch.document_of_kept()]
