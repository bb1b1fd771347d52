"""Which experts the training rows use, measured once at the start of a stage and kept beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from tunesmith.core.events import Emitter
from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy
from tunesmith.objectives.balance import router_load
from tunesmith.runtime.base import Runtime
from tunesmith.train.kept import kept_tensors

EXPERT_LOAD = "expert_load"
"""Folder of the measurement, in the folder of the stage."""
_MOST_ROWS = 256
_AT_ONCE = 8


def kept_load(
    policy: Policy,
    rows: Sequence[Features],
    pack: Callable[[Sequence[Features]], Packed],
    folder: Path,
    base_sha256: str,
    runtime: Runtime,
    emitter: Emitter,
) -> Mapping[int, Tensor]:
    """How often each expert of a block is chosen on the first training rows, at most 256, [E] by block.

    Args:
        policy: the model before its adaptation.
        folder: of the stage.

    Errors: those of `kept_tensors`.
    """
    seen = rows[:_MOST_ROWS]
    facts = {"base": base_sha256, "rows": hashlib.sha256(repr([row.token_ids for row in seen]).encode()).hexdigest()}

    def make() -> Mapping[str, Tensor]:
        total: dict[str, Tensor] = {}
        training = policy.training
        policy.eval()
        for first in range(0, len(seen), _AT_ONCE):
            batch = pack(seen[first : first + _AT_ONCE]).to(policy.device)
            for layer, load_E in router_load(policy, batch).items():
                total[str(layer)] = total.get(str(layer), 0) + load_E.cpu()
        policy.train(training)
        return total

    found, _ = kept_tensors(folder / EXPERT_LOAD, facts, make, runtime)
    for layer, load_E in sorted(found.items(), key=lambda each: int(each[0])):
        shares = ", ".join(f"{share:.3f}" for share in (load_E / load_E.sum()).tolist())
        emitter.emit("note", code="train.expert_load", layer=int(layer), rows=len(seen), shares=shares)
    return {int(layer): load_E for layer, load_E in found.items()}
