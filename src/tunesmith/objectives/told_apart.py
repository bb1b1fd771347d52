"""Losses that are told beside those that train: of the new rows and of the old ones that a step replays.

    loss_of_new_rows, loss_of_old_rows    the mean over the positions of each, as the objective weighs them
    loss_of_old_rows/<task>               the same of each task's old rows, where there are several tasks

The step's loss, whose gradient moves the weights, stays the mean over all its positions.

Shape letters: K positions, P parts of a loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tunesmith.models.packed import Packed
from tunesmith.objectives.base import TOLD, Objective

NEW, OLD = f"{TOLD}new_rows", f"{TOLD}old_rows"
_NEW = -1


class OldRowsToldApart:
    """An objective over the policy's losses of positions, with the means of new and of old rows beside its terms.

    Args:
        old: the task of every old row, by the row's number; empty where there is one task alone.
    """

    def __init__(self, objective: Objective, old: Mapping[int, str]) -> None:
        self._objective = objective
        self._tasks = sorted(set(old.values()) - {""})
        place = {name: at for at, name in enumerate(self._tasks)}
        self._old = {row: place.get(task, 0) for row, task in old.items()}

    def count(self, batch: Packed) -> dict[str, float]:
        """Those of the objective, and the loss weight of new and of old rows."""
        apart = {name: float(each) for name, each in self._apart(batch, batch.weight.double()).items()}
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
        return {**terms, **self._apart(batch, losses_K * batch.weight)}

    def state(self) -> dict[str, object]:
        """That of the objective."""
        return self._objective.state()

    def restore(self, state: dict[str, object]) -> None:
        """Take it back."""
        self._objective.restore(state)

    def _apart(self, batch: Packed, values_K: Tensor) -> dict[str, Tensor]:
        """Sums over the positions of new rows, of old rows, and of the old rows of each task."""
        task_K = self._old_task(batch)
        of_tasks = {f"{OLD}/{name}": values_K[task_K == place].sum() for place, name in enumerate(self._tasks)}
        return {NEW: values_K[task_K == _NEW].sum(), OLD: values_K[task_K != _NEW].sum(), **of_tasks}

    def _old_task(self, batch: Packed) -> Tensor:
        """The place of the task of every kept position of an old row, and `_NEW` of a new one, [K]."""
        of_document = [self._old.get(row, _NEW) for row in batch.row.tolist()]
        return torch.tensor(of_document, device=batch.row.device)[batch.document_of_kept()]
