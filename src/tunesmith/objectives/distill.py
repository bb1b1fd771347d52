"""Distillation: the student learns the teacher's next-token distribution (Hinton et al. 2015, 1503.02531).

The teacher is asked at the kept positions alone: in every pass, where it stands in memory, or once beforehand, where
only its most likely tokens are kept (`models/divergence.py` says what becomes of the rest of its mass).

Shape letters: K positions, V vocabulary, N tokens kept of the teacher, R rows, S positions of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from tunesmith.models.divergence import Computed, Divergence, Kept, Wanted
from tunesmith.models.linear_loss import CHUNK
from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy
from tunesmith.recipe.specs.objectives import DistillSpec

CROSS_ENTROPY, DIVERGENCE = "cross_entropy", "divergence"


class Teacher(Protocol):
    """Somebody who can be asked about a batch."""

    def of(self, batch: Packed) -> Wanted:
        """Its distribution at the batch's kept positions."""


class TeacherInMemory:
    """Computed in every pass: exact, and dear.

    Args:
        policy: the teacher, frozen.
        vocabulary: rows of the student's head.
    """

    def __init__(self, policy: Policy, vocabulary: int, temperature: float) -> None:
        self._policy = policy
        self._vocabulary = vocabulary
        self._temperature = temperature

    def of(self, batch: Packed) -> Wanted:
        """See `Teacher`."""
        head: Tensor = self._policy.model.get_output_embeddings().weight
        with torch.no_grad():
            return Computed(self._policy.hidden(batch), head.detach(), self._vocabulary, self._temperature)


class TeacherKept:
    """The most likely tokens, as `most_likely` found them."""

    def __init__(self, kept: Mapping[str, Tensor]) -> None:
        self._log_shares_SN, self._ids_SN = kept["log_shares"], kept["ids"]
        bounds = torch.cat([torch.zeros(1, dtype=torch.long), kept["counts"].cumsum(0)]).tolist()
        self._places = {row: (bounds[at], bounds[at + 1]) for at, row in enumerate(kept["rows"].tolist())}

    def of(self, batch: Packed) -> Wanted:
        """See `Teacher`. A row whose weights are all zero, which a rank repeats, has no positions."""
        bounds = torch.searchsorted(batch.keep.cpu(), batch.offsets.cpu()).tolist()
        parts: list[Tensor] = []
        for place, row in enumerate(batch.row.tolist()):
            count = bounds[place + 1] - bounds[place]
            if count:
                first, last = self._places[row]
                if last - first != count:
                    raise ValueError(f"row {row} has {count} positions, the teacher was asked about {last - first}")
                parts.append(torch.arange(first, last))
        at_K = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)
        device = batch.keep.device
        return Kept(self._log_shares_SN[at_K].to(device), self._ids_SN[at_K].to(device))


def most_likely(
    teacher: TeacherInMemory,
    rows: Sequence[Features],
    pack: Callable[[Sequence[Features]], Packed],
    tokens: int,
    device: torch.device,
    seen: Callable[[int], None] = lambda done: None,
) -> dict[str, Tensor]:
    """The teacher's most likely tokens at every kept position of some rows, on the CPU.

    Returns:
        rows [R], counts [R] of their positions, ids [S, N] and log_shares [S, N], row after row.
    """
    counts: list[int] = []
    ids: list[Tensor] = []
    log_shares: list[Tensor] = []
    with torch.inference_mode():
        for place, row in enumerate(rows):
            batch = pack([row]).to(device)
            wanted, count = teacher.of(batch), batch.keep.numel()
            for first in range(0, count, CHUNK):
                log_p_KV, _ = wanted.of(slice(first, first + CHUNK))
                best = log_p_KV.topk(min(tokens, log_p_KV.shape[1]), dim=-1)
                ids.append(best.indices.to("cpu", torch.int32))
                log_shares.append(best.values.cpu())
            counts.append(count)
            seen(place + 1)
    numbers = [row.row for row in rows]
    return {
        "rows": torch.tensor(numbers, dtype=torch.long),
        "counts": torch.tensor(counts, dtype=torch.long),
        "ids": torch.cat(ids).clone(),
        "log_shares": torch.cat(log_shares).clone(),
    }


class Distill:
    """Two row terms, both counted in loss weight: the rows' own tokens, and the teacher's distribution."""

    def __init__(self, spec: DistillSpec, teacher: Teacher) -> None:
        self._spec = spec
        self._teacher = teacher
        self._terms = (DIVERGENCE,) if spec.alpha == 1 else (CROSS_ENTROPY, DIVERGENCE)

    def count(self, batch: Packed) -> dict[str, float]:
        """Sum of the weights of the marked tokens, for either term."""
        return dict.fromkeys(self._terms, float(batch.weight.double().sum()))

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        """Weighted sums of the parts of the loss."""
        wanted = self._teacher.of(batch)
        measure = Divergence(wanted, batch.target, self._spec.temperature, self._spec.alpha)
        parts_PK: Tensor = policy(batch, measure=measure)
        return {name: (part_K * batch.weight).sum() for name, part_K in zip(self._terms, parts_PK, strict=True)}

    def state(self) -> dict[str, object]:
        """Nothing to keep."""
        return {}

    def restore(self, state: dict[str, object]) -> None:
        """Nothing to take."""


def unseen(rows: Iterable[Features]) -> list[Features]:
    """Every row once, in the order of first sight."""
    return list({row.row: row for row in rows}.values())
