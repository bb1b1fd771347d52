"""What happens before the passes of a step: nothing, unless a term of the loss looks at all rows of the step together.

Such a term gets the features of the whole window, of all micro-batches on all ranks, before the first of them is run
(`objectives/alignment.py`). That takes one more forward pass. Where the window is run in one pass of one process, the
pass itself holds them all.

Shape letters: K rows of a batch, N rows of a window, W width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy
from tunesmith.objectives.adversarial import Adversarial, rows_of
from tunesmith.recipe.specs.train import TrainSpec
from tunesmith.runtime.base import Runtime
from tunesmith.train.batching import micro_batches
from tunesmith.train.passes import Passes


class Begin(Protocol):
    """Called before the passes of a step."""

    def __call__(self, step: int, window: Sequence[Features], batches: Sequence[Packed]) -> None:
        """`window` are the rows on all ranks, `batches` those of this one as they will be run."""


def nothing_ahead(step: int, window: Sequence[Features], batches: Sequence[Packed]) -> None:
    """The null object of `Begin`."""


def ahead_of(
    objective: Adversarial | None, policy: Policy, passes: Passes, runtime: Runtime, spec: TrainSpec, total_steps: int
) -> Begin:
    """What is to be called before every step; nothing where no objective has to be told anything."""
    if objective is None:
        return nothing_ahead
    return LookAhead(objective, policy, passes, runtime, total_steps, may_cut=spec.batch_size == "auto")


class LookAhead:
    """Tells an adversarial objective where the training is, and what a step's features are.

    Args:
        policy: without what shares its gradients; nothing flows back here.
        may_cut: whether memory may cut the passes further once they have begun.
    """

    def __init__(
        self,
        objective: Adversarial,
        policy: Policy,
        passes: Passes,
        runtime: Runtime,
        total_steps: int,
        *,
        may_cut: bool,
    ) -> None:
        self._objective = objective
        self._policy = policy
        self._passes = passes
        self._runtime = runtime
        self._total_steps = total_steps
        self._may_cut = may_cut

    def __call__(self, step: int, window: Sequence[Features], batches: Sequence[Packed]) -> None:
        """See `Begin`."""
        self._objective.begin(step / self._total_steps)
        in_one_pass = self._runtime.size == 1 and len(batches) == 1 and not self._may_cut
        if self._objective.looks_at_steps and not in_one_pass:
            self._gather(window)

    def _gather(self, window: Sequence[Features]) -> None:
        """Show the objective the features of the window's rows, in the order of the window on every rank."""
        size = self._runtime.size
        (share,) = micro_batches(window, math.ceil(len(window) / size), self._runtime.rank, size)
        with torch.no_grad():
            seen = list(self._passes.each(share, self._look))
        rows_K = torch.tensor([row for rows, _ in seen for row in rows], device=self._runtime.device)
        rows = self._runtime.gather(rows_K).tolist()
        features_NW = self._runtime.gather(torch.cat([features for _, features in seen]))
        place = {row: at for at, row in enumerate(rows)}
        wanted = [each.row for each in window]
        self._objective.gathered(wanted, features_NW[[place[row] for row in wanted]])

    def _look(self, batch: Packed) -> tuple[list[int], Tensor]:
        return rows_of(batch), self._policy.hidden(batch.to(self._runtime.device))
