"""A build under way: what all steps share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.corpus.executors import Executor
from tunesmith.data.corpus.inputs import Input
from tunesmith.data.corpus.pieces import Piece
from tunesmith.data.corpus.plan import Plan, plan_of
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.goal import ComplianceSpec


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
    executor: Executor
    pieces: tuple[Piece, ...] = ()
    digest: str = ""
    """Of the plan that it began with."""

    def plan(self) -> Plan:
        """What the parts depend on, as it is now."""
        return plan_of(self.spec, self.recipe_folder, self.inputs, self.piece_bytes, self.compliance)

    @property
    def parts(self) -> list[Path]:
        """A folder a piece, in their order. Its name says of which plan and of which piece it is."""
        ranges = [[self.digest, each.source, str(each.path), each.start, each.end] for each in self.pieces]
        return [self.folder / f"part-{place:05d}-{digest_of(each)}" for place, each in enumerate(ranges)]


def digest_of(value: object) -> str:
    """A short name that another value does not get. [16 hexadecimal digits]"""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
