"""A way of adapting and plain LoRA in one process, step about step over the same rows."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from benchmarks.exchange import Figures, Job, Rows, read_rows
from benchmarks.peers.ours import stage_of
from tunesmith.train.checkpoint import Checkpoints, Snapshot
from tunesmith.train.loop import fit
from tunesmith.train.probe import step_cost


class InMemory(Checkpoints):
    """The state between two turns, which nobody needs but this process: gigabytes of it are not worth a disk."""

    def __init__(self) -> None:
        self._newest: Snapshot | None = None

    def newest(self) -> Snapshot | None:
        return self._newest

    def newest_until(self, step: int) -> Path | None:
        return None

    def save(self, snapshot: Snapshot) -> Path:
        self._newest = snapshot
        return Path()

    def save_best(self, masters: Mapping[str, Tensor], step: int, value: float | None) -> Path:
        return Path()

    def require_space(self, masters: Mapping[str, Tensor], optimizer_bytes: int, saves: int) -> None:
        return None


@dataclass
class _Trained:
    """One of the two: its fit, and what its steps took so far. The probe is the first part of the warm-up."""

    job: Job
    rows: Rows
    seconds: list[float] = field(default_factory=list)
    flops: float = 0.0

    def __post_init__(self) -> None:
        self.fit = replace(stage_of(self.job, self.rows), checkpoints=InMemory())
        step_cost(self.fit, steps=1)

    def turn(self, step: int) -> None:
        """One step more; taking up the state and keeping it again are not on the clock."""
        progress = fit(self.fit, until=step).progress
        self.seconds.append(progress.seconds - sum(self.seconds))
        self.flops = progress.executed_flops


def turns(job: Job) -> Figures:
    """Seconds of every step of both; the first of each is the rest of the warm-up, and the last one, which validates
    too, is left out."""
    rows = read_rows(job.rows)
    asked = _Trained(replace(job, scratch=str(Path(job.scratch) / "asked")), rows)
    lora = _Trained(replace(job, scratch=str(Path(job.scratch) / "lora"), options={}), rows)
    for step in range(1, asked.fit.total_steps):
        asked.turn(step)
        lora.turn(step)
    pairs = zip(asked.seconds[1:], lora.seconds[1:], strict=True)
    return {
        "step_seconds": statistics.median(asked.seconds[1:]),
        "lora_step_seconds": statistics.median(lora.seconds[1:]),
        "ratios": [one / other for one, other in pairs],
        "flops_ratio": asked.flops / lora.flops,
    }
