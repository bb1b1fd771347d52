"""A build under way: what all steps share, and how they go through its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tunesmith.data.corpus.inputs import Input
from tunesmith.data.corpus.pieces import Piece
from tunesmith.data.corpus.plan import Plan, plan_of
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.goal import ComplianceSpec

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Build:
    """What is built out of which files: in `folder`, until it appears as `out`. Pieces are known once all lie open."""

    spec: DataSpec
    compliance: ComplianceSpec | None
    recipe_folder: Path
    folder: Path
    out: Path
    inputs: Sequence[Input]
    piece_bytes: int
    workers: int
    pieces: tuple[Piece, ...] = ()

    def plan(self) -> Plan:
        """What the parts depend on, as it is now."""
        return plan_of(self.spec, self.recipe_folder, self.inputs, self.piece_bytes, self.compliance)

    @property
    def parts(self) -> list[Path]:
        """A folder a piece, in their order."""
        return [self.folder / f"part-{place:05d}" for place in range(len(self.pieces))]


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """Every item through a function, in their order; the first error stops what has not begun."""
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            return [each.result() for each in running]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
