"""A way of adapting and plain LoRA in one process, step about step over the same rows."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.exchange import Figures, Job, Rows, read_rows
from benchmarks.peers.ours import stage_of
from tunesmith.train.loop import fit
from tunesmith.train.probe import step_cost

STEPS_A_TURN = 4


@dataclass
class _Trained:
    """One of the two: its fit, and what its turns took so far."""

    job: Job
    rows: Rows
    seconds: list[float] = field(default_factory=list)
    flops: float = 0.0

    def __post_init__(self) -> None:
        self.fit = stage_of(self.job, self.rows)
        step_cost(self.fit)

    def turn(self, number: int) -> None:
        """A few steps more; what is saved between the turns is not on the clock."""
        progress = fit(self.fit, until=number * STEPS_A_TURN).progress
        self.seconds.append((progress.seconds - sum(self.seconds) * STEPS_A_TURN) / STEPS_A_TURN)
        self.flops = progress.executed_flops


def turns(job: Job) -> Figures:
    """Seconds of a step of both, turn by turn; the first turn of each is the warm-up."""
    rows = read_rows(job.rows)
    asked = _Trained(replace(job, scratch=str(Path(job.scratch) / "asked")), rows)
    lora = _Trained(replace(job, scratch=str(Path(job.scratch) / "lora"), options={}), rows)
    for number in range(1, asked.fit.total_steps // STEPS_A_TURN + 1):
        asked.turn(number)
        lora.turn(number)
    pairs = zip(asked.seconds[1:], lora.seconds[1:], strict=True)
    return {
        "step_seconds": statistics.median(asked.seconds[1:]),
        "lora_step_seconds": statistics.median(lora.seconds[1:]),
        "ratios": [one / other for one, other in pairs],
        "flops_ratio": asked.flops / lora.flops,
    }
