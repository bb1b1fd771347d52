"""Several tasks at once: each has a term of its own, the mean over its rows, and a weight.

    loss = sum over tasks of w_t / W * mean loss of the task's tokens in the step        W = sum of all w_t

So a task with long answers does not drown one with short ones; how often each comes is the source's business
(`train/mixing.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tunesmith.models.packed import Packed
from tunesmith.recipe.specs.objectives import MultitaskSpec


def term_of(task: str) -> str:
    """The name that a task's loss has in metrics.jsonl."""
    return f"loss/{task}"


class Multitask:
    """Row terms, one a task, each counted in loss weight.

    Args:
        tasks: of every row, by the row's number.
    """

    def __init__(self, spec: MultitaskSpec, tasks: Mapping[int, str]) -> None:
        self._smoothing = spec.label_smoothing
        self._names = sorted(set(tasks.values()))
        place = {name: at for at, name in enumerate(self._names)}
        self._place = {row: place[name] for row, name in tasks.items()}
        weights = [spec.weights.get(name, 1.0) for name in self._names]
        self._shares = [weight / sum(weights) for weight in weights]

    def count(self, batch: Packed) -> dict[str, float]:
        """Sum of the weights of each task's marked tokens."""
        return self._by_task(batch, batch.weight.double())

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """Weighted sum of each task's token losses, times the task's share."""
        losses_K: Tensor = policy(batch, self._smoothing)
        weighted_K = losses_K * batch.weight
        task_K = self._tasks(batch)
        return {
            term_of(name): share * weighted_K[task_K == place].sum()
            for place, (name, share) in enumerate(zip(self._names, self._shares, strict=True))
        }

    def state(self) -> dict[str, object]:
        """Nothing to keep."""
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Nothing to take."""

    def _by_task(self, batch: Packed, values_K: Tensor) -> dict[str, float]:
        sums = torch.zeros(len(self._names), dtype=values_K.dtype, device=values_K.device)
        sums.index_add_(0, self._tasks(batch), values_K)
        return {term_of(name): value for name, value in zip(self._names, sums.tolist(), strict=True)}

    def _tasks(self, batch: Packed) -> Tensor:
        """The place of the task of every kept position, [K]."""
        # A beginning that rows share has no row and no kept position.
        of_document_D = torch.tensor([self._place.get(row, 0) for row in batch.row.tolist()], device=batch.row.device)
        return of_document_D[batch.document_of_kept()]
