"""The resume certificate: replay from an earlier checkpoint to a later one, and compare the bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors, folder_hashes
from tunesmith.train.checkpoint import checkpoint_facts, checkpoint_paths, checkpoint_step
from tunesmith.train.loop import Job, fit

_NOT_COMPARED = frozenset({"state.json"})
"""Holds seconds, which no replay can repeat; the weights, masters and optimizer it stands beside are compared."""


@dataclass(frozen=True)
class Certificate:
    """Steps `first` to `last` were done again from the checkpoint of `first`; `differing` files came out otherwise."""

    first: int
    last: int
    differing: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Every byte of weights, masters and optimizer is the same."""
        return not self.differing


def certify(folder: Path, aside: Path, build: Callable[[Path], Job]) -> Certificate:
    """Replay between the two newest checkpoints of a stage, in the micro-batches that the later one has recorded.

    Args:
        folder: of the stage.
        aside: empty folder to work in; it is removed afterwards.
        build: assembles the stage's fit over another folder.

    Errors: lifecycle.nothing_to_certify, those of `disk_errors` and of `fit`.
    """
    paths = checkpoint_paths(folder)
    if len(paths) < 2:
        raise TunesmithError("lifecycle.nothing_to_certify", path=str(folder))
    earlier, later = paths[-2:]
    try:
        with disk_errors(aside):
            shutil.copytree(earlier, aside / earlier.name)
        job = build(aside)
        job.passes.replay(checkpoint_facts(later).get("passes", {}))
        fit(job, until=checkpoint_step(later))
        differing = differing_files(later, aside / later.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Certificate(checkpoint_step(earlier), checkpoint_step(later), differing)


def differing_files(left: Path, right: Path) -> tuple[str, ...]:
    """Files of two checkpoints whose bytes are not the same, of those that a replay must give again."""
    stated, found = folder_hashes(left), folder_hashes(right)
    differing = {name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name)}
    return tuple(sorted(differing - _NOT_COMPARED))
