"""What `plan`, `train`, `evaluate` and `ship` share: the life cycle up to one stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.manner import tell
from tunesmith.cli.terminal import STAGES, Terminal
from tunesmith.cli.work import opened_or_started
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.work import Work


def run_until(path: Path, last: str, runs: Path, *, accept_machine: bool = False) -> Path:
    """Do the stages up to `last` that are not done yet; returns the run directory.

    Args:
        path: a run directory, a folder of runs (the newest is taken) or a recipe.
        last: one of `STAGES`.
        runs: where the run of a recipe is found or made.
        accept_machine: train on under other versions, on another processor or with other threads.
    """
    with Terminal() as listener, opened_or_started(path, runs, listener) as work:
        tell(say("cli.run_folder", path=str(work.path)))
        working = replace(work, accept_machine=accept_machine)
        for stage in _functions()[: STAGES.index(last) + 1]:
            stage(working)
    return work.path


def _functions() -> Sequence[Callable[[Work], None]]:
    from tunesmith import lifecycle

    return (
        lifecycle.prepare_data,
        lifecycle.plan,
        lifecycle.measure_baseline,
        lifecycle.train,
        lifecycle.evaluate,
        lifecycle.ship,
    )
