"""The resume certificate: replay from an earlier checkpoint to a later one, and compare the bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_hashes
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

    Errors: lifecycle.nothing_to_certify, and those of `fit`.
    """
    paths = checkpoint_paths(folder)
    if len(paths) < 2:
        raise TunesmithError("lifecycle.nothing_to_certify", path=str(folder))
    earlier, later = paths[-2:]
    try:
        shutil.copytree(earlier, aside / earlier.name)
        job = build(aside)
        job.passes.replay(checkpoint_facts(later).get("passes", {}))
        fit(job, until=checkpoint_step(later))
        stated, found = folder_hashes(later), folder_hashes(aside / later.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    differing = {name for name in stated.keys() | found.keys() if stated.get(name) != found.get(name)}
    return Certificate(checkpoint_step(earlier), checkpoint_step(later), tuple(sorted(differing - _NOT_COMPARED)))
