"""The easy rows first: in the first epochs the windows go from easy to hard, later ones are shuffled as ever.

Every row comes once an epoch all the same, and which rows meet in a step is again an index function of (seed, epoch,
step), so a fit that is broken off needs no more than its step to go on alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.seed import derive_seed
from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy
from tunesmith.recipe.specs.curriculum import CurriculumSpec
from tunesmith.runtime.base import Runtime
from tunesmith.train.batching import Source
from tunesmith.train.kept import kept_tensors
from tunesmith.train.old_task import rows_digest

CURRICULUM = "curriculum"
"""Folder of the measured losses, in the folder of the stage."""
_AT_ONCE = 8


class CurriculumSource:
    """Training rows from easy to hard in the first epochs.

    Args:
        rows: encoded rows.
        hardness: of every row, in their order; rows of one hardness come in the order of chance.
        epochs: passes from easy to hard.
        window: rows of one optimizer step on all ranks together.
        seed: of the stage.

    Errors: train.curriculum_one_step, train.curriculum_all_alike.
    """

    def __init__(
        self, rows: Sequence[Features], hardness: Sequence[float], epochs: int, window: int, seed: int
    ) -> None:
        self._later = Source(rows, window, seed)
        self.windows_per_epoch = self._later.windows_per_epoch
        if self.windows_per_epoch < 2:
            raise TunesmithError("train.curriculum_one_step", rows=len(rows), window=window)
        if len(set(hardness)) < 2:
            raise TunesmithError("train.curriculum_all_alike", rows=len(rows))
        self._rows = rows
        self._hardness = hardness
        self._epochs = epochs
        self._window = window
        self._seed = seed

    def window(self, step: int) -> list[Features]:
        """Rows of a step, counted from 0. The last window of an epoch may be smaller: no row is left out."""
        epoch, place = divmod(step, self.windows_per_epoch)
        if epoch >= self._epochs:
            return self._later.window(step)
        first = place * self._window
        return [self._rows[index] for index in self._order(epoch)[first : first + self._window]]

    @lru_cache(maxsize=2)  # noqa: B019 - the source lives as long as the run, and two epochs are all it holds
    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self._rows)))
        random.Random(derive_seed(self._seed, "curriculum", epoch)).shuffle(order)
        return sorted(order, key=lambda index: self._hardness[index])


def kept_losses(
    policy: Policy,
    rows: Sequence[Features],
    pack: Callable[[Sequence[Features]], Packed],
    folder: Path,
    start_sha256: str,
    runtime: Runtime,
    emitter: Emitter,
) -> tuple[list[float], str]:
    """Each row's mean loss before the first step, by the weights of its tokens, and the hash of the file of all.

    A row that teaches nothing has none, and counts as easy.

    Args:
        policy: the model that the stage starts from.
        folder: of the stage.

    Errors: those of `kept_tensors`.
    """
    facts = {"base": start_sha256, "rows": rows_digest(rows)}

    def make() -> dict[str, Tensor]:
        sums_N, weights_N = torch.zeros(len(rows), dtype=torch.float64), torch.zeros(len(rows), dtype=torch.float64)
        by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].token_ids))
        training = policy.training
        policy.eval()
        with torch.no_grad():
            for first in range(0, len(rows), _AT_ONCE):
                places = by_length[first : first + _AT_ONCE]
                batch = pack([replace(rows[place], row=place) for place in places]).to(policy.device)
                place_K = batch.row[batch.document_of_kept()].cpu()
                weight_K = batch.weight.double().cpu()
                sums_N.index_add_(0, place_K, policy(batch).double().cpu() * weight_K)
                weights_N.index_add_(0, place_K, weight_K)
                emitter.emit("progress", what=CURRICULUM, done=first + len(places), total=len(rows))
        policy.train(training)
        return {"losses": torch.where(weights_N > 0, sums_N / weights_N.clamp_min(1e-300), 0.0)}

    found, sha256 = kept_tensors(folder / CURRICULUM, facts, make, runtime)
    return found["losses"].tolist(), sha256


def curriculum_source(
    spec: CurriculumSpec, rows: Sequence[Features], losses: Sequence[float], window: int, seed: int, emitter: Emitter
) -> CurriculumSource:
    """The source that a recipe asks for. `losses` are the rows', where it goes by them; lengths are at hand."""
    hardness = losses if spec.by == "loss" else [float(len(row.token_ids)) for row in rows]
    source = CurriculumSource(rows, hardness, spec.epochs, window, seed)
    easiest, hardest = (f"{each:.4g}" for each in (min(hardness), max(hardness)))
    emitter.emit("note", code=f"train.curriculum_{spec.by}", epochs=spec.epochs, easiest=easiest, hardest=hardest)
    return source
