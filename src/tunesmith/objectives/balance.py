"""The routers' balance loss beside an objective: weight times the mean over blocks of `models/experts.balance`.

Its unit is the window: shares of choices are taken over all tokens of an optimizer step, and the product of two means
over parts of a window is not that of the whole. So a step must be one pass of one process (`compat.window_term`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tunesmith.models.experts import balance, watching_routers
from tunesmith.models.packed import Packed
from tunesmith.objectives.base import Objective

BALANCE = "router_balance"


class Balanced:
    """An objective with the balance loss as one more term."""

    def __init__(self, objective: Objective, weight: float) -> None:
        self._objective = objective
        self._weight = weight

    def count(self, batch: Packed) -> dict[str, float]:
        """Those of the objective, and one window."""
        return {**self._objective.count(batch), BALANCE: 1.0}

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """The objective's sums, and the balance loss of this pass."""
        said: dict[int, tuple[Tensor, Tensor]] = {}

        def seen(layer: int, logits_TE: Tensor, choices_TK: Tensor) -> None:
            said[layer] = logits_TE, choices_TK  # nothing is computed here: a block may be computed again, this not

        with watching_routers(policy, seen):
            terms = self._objective.loss(policy, batch)
        uneven = [balance(logits_TE, choices_TK) for logits_TE, choices_TK in said.values()]
        return {**terms, BALANCE: self._weight * torch.stack(uneven).mean()}

    def state(self) -> dict[str, object]:
        """That of the objective."""
        return self._objective.state()

    def restore(self, state: dict[str, object]) -> None:
        """Take it back."""
        self._objective.restore(state)


def router_load(policy: nn.Module, batch: Packed) -> Mapping[int, Tensor]:
    """How often each expert of a block is chosen by the tokens of a batch, [E] float64, by block."""
    load: dict[int, Tensor] = {}

    def seen(layer: int, logits_TE: Tensor, choices_TK: Tensor) -> None:
        load[layer] = torch.bincount(choices_TK.flatten(), minlength=logits_TE.shape[-1]).double()

    with torch.inference_mode(), watching_routers(policy, seen):
        policy(batch)
    return load
