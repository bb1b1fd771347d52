"""What an old task needs of a model, measured once at the start of a stage and kept beside it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from tunesmith.core.events import Emitter
from tunesmith.core.seed import derive_seed
from tunesmith.models.low_rank import LowRank
from tunesmith.models.packed import Features
from tunesmith.models.policy import Policy
from tunesmith.objectives.fisher import Pack, fisher_diagonal
from tunesmith.recipe.specs.penalties import EwcSpec
from tunesmith.runtime.base import Runtime
from tunesmith.train.kept import kept_tensors

FISHER = "fisher"
"""Folder of the measurement, in the folder of the stage."""


def kept_fisher(
    spec: EwcSpec,
    rows: Sequence[Features],
    policy: Policy,
    pack: Pack,
    moving: Mapping[str, nn.Parameter],
    additions: Sequence[LowRank],
    seed: int,
    folder: Path,
    base_sha256: str,
    runtime: Runtime,
    emitter: Emitter,
) -> tuple[dict[str, Tensor], str]:
    """The Fisher diagonal of what moves over drawn rows of the old task, and the hash of its file.

    Args:
        policy: with its adaptation in place and its blocks plain.
        folder: of the stage.

    Errors: those of `kept_tensors`.
    """
    drawn = _drawn(rows, spec.rows, seed)
    facts = {
        "base": base_sha256,
        "labels": spec.labels,
        "moving": _digest(moving),
        "rows": rows_digest(drawn),
        "seed": str(seed),
    }

    def seen(done: int) -> None:
        emitter.emit("progress", what=FISHER, done=done, total=len(drawn))

    def make() -> dict[str, Tensor]:
        return fisher_diagonal(policy, drawn, pack, moving, additions, spec.labels, seed, seen)

    fisher, sha256 = kept_tensors(folder / FISHER, facts, make, runtime)
    emitter.emit("note", code="train.fisher", rows=len(drawn), labels=spec.labels)
    return fisher, sha256


def _drawn(rows: Sequence[Features], most: int, seed: int) -> list[Features]:
    """At most so many of the rows, in their order."""
    draw = random.Random(derive_seed(seed, "ewc rows"))
    return [rows[place] for place in sorted(draw.sample(range(len(rows)), min(most, len(rows))))]


def rows_digest(rows: Sequence[Features]) -> str:
    """SHA-256 of encoded rows: token ids and weights, in their order."""
    return _digest(repr((row.token_ids, row.weights)) for row in rows)


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()
