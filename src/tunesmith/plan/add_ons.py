"""What the add-ons of a stage cost beside its adaptation: rows that are replayed, bytes of penalties and teachers.

Penalties take no forward pass; what they compute once a step (for EWC over LoRA 6 R FLOPs a number of the layers it
holds, R the rank) is in the probe's seconds and not in the formula's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import TypeVar

from tunesmith.plan.sizes import BYTES_OF_DTYPE, ModelSize, adapted_numbers, trained_parameters
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.adapt import LoraSpec

Row = TypeVar("Row")


def rows_of_an_epoch(stage: StageSpec, rows: Sequence[Row], old: Mapping[str, Sequence[Row]]) -> list[Row]:
    """What one pass trains on, on one process: the new rows, and as many old ones as its steps hold."""
    if stage.replay is None:
        return list(rows)
    window = stage.train.rows_per_step
    beside = stage.replay.old_rows(window)
    steps = math.ceil(len(rows) / max(1, window - beside))
    return [*rows, *islice(cycle(old["replay"]), steps * beside)]


def held_bytes(size: ModelSize, stage: StageSpec, teacher: ModelSize | None = None, dtype: str = "float32") -> int:
    """Bytes that stand beside the model through the whole training.

    Float32 numbers of penalties (start values, and the Fisher diagonal), and the weights of a teacher in memory.
    """
    taught = teacher.parameters * BYTES_OF_DTYPE[dtype] if teacher is not None else 0
    return taught + _held_by_penalties(size, stage)


def _held_by_penalties(size: ModelSize, stage: StageSpec) -> int:
    if stage.penalties is None:
        return 0
    is_lora = isinstance(stage.adapt, LoraSpec)
    starts = 0 if is_lora else trained_parameters(size, stage.adapt)
    numbers = starts if stage.penalties.l2_sp is not None else 0
    if stage.penalties.ewc is not None:
        fisher = adapted_numbers(size, stage.adapt) if isinstance(stage.adapt, LoraSpec) else starts
        numbers += starts + fisher
    return 4 * numbers
