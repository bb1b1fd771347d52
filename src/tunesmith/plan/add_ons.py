"""What the add-ons of a stage cost beside its adaptation: rows that stand beside the new ones, passes that read a step
before it is run, bytes of penalties, teachers and domain classifiers.

Penalties take no forward pass; what they compute once a step (for EWC over LoRA 6 R FLOPs a number of the layers it
holds, R the rank) is in the probe's seconds and not in the formula's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from types import MappingProxyType
from typing import Protocol, TypeVar

from tunesmith.plan.sizes import BYTES_OF_DTYPE, ModelSize, adapted_numbers, trained_parameters
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.adapt import LoraSpec
from tunesmith.recipe.specs.objectives import TARGET, AdversarialSpec, MultitaskSpec
from tunesmith.recipe.specs.train import ADAPTED_LOSS


class Sized(Protocol):
    """A row that somebody has counted."""

    @property
    def row(self) -> int:
        """Its number in the ledger."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Its tokens."""


Row = TypeVar("Row", bound=Sized)
_ONE_TASK: Mapping[int, str] = MappingProxyType({})


def rows_of_an_epoch(
    stage: StageSpec, rows: Sequence[Row], old: Mapping[str, Sequence[Row]], tasks: Mapping[int, str] = _ONE_TASK
) -> list[Row]:
    """What one pass trains on, on one process: the new rows, and as many old ones as its steps hold.

    `tasks` names the task of every new row, by the row's number: evened out, some come more often than others.
    """
    window, spec = stage.train.rows_per_step, stage.objective
    new = _evened_out(spec, rows, tasks) if isinstance(spec, MultitaskSpec) else list(rows)
    if isinstance(spec, AdversarialSpec):
        beside, others = spec.target_rows(window), old[TARGET]
    elif stage.replay is not None:
        beside, others = stage.replay.old_rows(window), old["replay"]
    else:
        return new
    steps = math.ceil(len(new) / max(1, window - beside))
    return [*new, *islice(cycle(others), steps * beside)]


def _evened_out(spec: MultitaskSpec, rows: Sequence[Row], tasks: Mapping[int, str]) -> list[Row]:
    """Rows of the first epoch; of a task that comes less often than it has rows, its first ones stand for others."""
    of_task: dict[str, list[Row]] = {}
    for row in rows:
        of_task.setdefault(tasks[row.row], []).append(row)
    tokens = {name: sum(len(row.token_ids) for row in each) for name, each in of_task.items()}
    counts = spec.rows_by_task({name: len(each) for name, each in of_task.items()}, tokens)
    return [row for name, each in of_task.items() for row in islice(cycle(each), counts[name])]


def measured_tokens(stage: StageSpec, rows: Sequence[Row]) -> int:
    """Tokens that are read once before the first step, where rows are put in the order of their loss."""
    by_loss = stage.curriculum is not None and stage.curriculum.by == "loss"
    return sum(len(row.token_ids) for row in rows) if by_loss else 0


def validated_tokens(stage: StageSpec, rows: Sequence[Row], old: Mapping[str, Sequence[Row]]) -> int:
    """Tokens that every validation reads: of its rows, and once more of some of them and of the target's where the
    distance of the domains decides. Which ones is drawn later, so rows of mean length stand for them.
    """
    tokens = sum(len(row.token_ids) for row in rows)
    stopping = stage.train.early_stopping
    if not isinstance(stage.objective, AdversarialSpec) or stopping.metric != ADAPTED_LOSS:
        return tokens
    for domain in (rows, old[TARGET]):
        share = min(1.0, stopping.rows / max(1, len(domain)))
        tokens += round(share * sum(len(row.token_ids) for row in domain))
    return tokens


def reads_ahead(stage: StageSpec, rows: int, tokens: int, tokens_at_once: int) -> int:
    """How often the rows of a step are read before its passes: once for KL and MMD of domains and once for the balance
    of routers, where the step is run in parts. How many processes there are is not known here.

    Args:
        rows, tokens: of an epoch.
        tokens_at_once: of the largest micro-batch.
    """
    train, spec, penalties = stage.train, stage.objective, stage.penalties
    if train.batch_size == "auto":
        in_parts = tokens * train.rows_per_step > tokens_at_once * rows
    else:
        in_parts = not train.packing or train.gradient_accumulation_steps > 1
    of_domains = isinstance(spec, AdversarialSpec) and spec.has_distance
    of_routers = penalties is not None and penalties.router_balance is not None
    return in_parts * (of_domains + of_routers)


def domain_classifier_numbers(size: ModelSize, stage: StageSpec) -> int:
    """Numbers of the domain classifier: matrix and bias of an inner layer and of one output."""
    reversal = stage.objective.reversal if isinstance(stage.objective, AdversarialSpec) else None
    return 0 if reversal is None else reversal.hidden_size * (size.hidden + 2) + 1


def held_bytes(size: ModelSize, stage: StageSpec, teacher: ModelSize | None = None, dtype: str = "float32") -> int:
    """Bytes that stand beside the model through the whole training.

    Float32 numbers of penalties (start values, and the Fisher diagonal), the weights of a teacher in memory, and of a
    domain classifier the weights, their gradients and two moments.
    """
    taught = teacher.parameters * BYTES_OF_DTYPE[dtype] if teacher is not None else 0
    return taught + _held_by_penalties(size, stage) + 16 * domain_classifier_numbers(size, stage)


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
