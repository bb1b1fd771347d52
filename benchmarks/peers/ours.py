"""Tunesmith as its recipe gives it: `benchmarks/sft.yaml`, settled and assembled as every stage of a run is."""

from __future__ import annotations

import statistics
from pathlib import Path

import torch

from benchmarks.exchange import Figures, Job, Row, Rows, read_rows
from benchmarks.peers.judge import adapter_losses
from tunesmith.core.conditions import Conditions
from tunesmith.core.events import Event, Events, Listener
from tunesmith.core.process import available_cores
from tunesmith.models.load import load_model, resolve_base
from tunesmith.models.packed import Features, pack
from tunesmith.recipe.load import load_recipe
from tunesmith.runtime.peak import SHAPES, measure
from tunesmith.runtime.start import start
from tunesmith.tasks.chat import ChatTask
from tunesmith.train.build import DTYPES, StageInputs, build
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import Job as Fit
from tunesmith.train.loop import fit
from tunesmith.train.probe import step_cost
from tunesmith.train.settle import settled
from tunesmith.train.validation import no_task_metric

RECIPE = Path(__file__).parents[1] / "sft.yaml"


def train(job: Job) -> Figures:
    """One fit; only its steps are on the clock. The probe that every run makes before its first step is the warm-up."""
    rows = read_rows(job.rows)
    losses: list[float] = []
    stage = stage_of(
        job, rows, listeners=(lambda event: losses.append(_loss(event)) if event.kind == "step" else None,)
    )
    step_cost(stage)
    progress = fit(stage).progress
    seconds = progress.seconds
    figures: Figures = {
        "seconds": seconds,
        "tokens_per_s": rows.train_tokens * job.epochs / seconds,
        "train_loss": statistics.fmean(losses),
        "needed_flops": progress.needed_flops,
        "executed_flops": progress.executed_flops,
        "weights_gb": _held_bytes(stage) / 1e9,
    }
    if rows.held_out:
        change = checkpoint_paths(Path(job.scratch) / "sft")[-1]
        figures["held_out_losses"] = adapter_losses(job.base_folder, str(change), rows.held_out)
    return figures


def _held_bytes(stage: Fit) -> int:
    """Bytes of the weights that stand still; those of a base in codes are buffers."""
    kept = stage.policy.state_dict().keys()
    codes = sum(each.nbytes for name, each in stage.policy.named_buffers() if name in kept)
    return codes + sum(each.nbytes for each in stage.policy.parameters() if not each.requires_grad)


def peak(job: Job) -> Figures:
    """The best matrix product over the fixed list of shapes, in bfloat16, on the threads that train."""
    torch.set_num_threads(job.threads)
    found = measure(torch.device("cpu"), torch.bfloat16, SHAPES, seconds=60)
    return {
        "flops_per_s": found.peak,
        "rows": [float(each.rows) for each in found.products],
        "inputs": [float(each.inputs) for each in found.products],
        "outputs": [float(each.outputs) for each in found.products],
        "speeds": [each.flops_per_second for each in found.products],
    }


def _loss(event: Event) -> float:
    return float(event.values["loss"] or 0.0)


def first_losses(job: Job) -> Figures:
    """Mean loss of each timed row before the first step, in the batches that training would make."""
    rows = read_rows(job.rows)
    stage = stage_of(job, rows)
    losses: dict[int, float] = {}
    with torch.no_grad():
        for first in range(0, len(rows.train), job.batch_size):
            losses.update(_losses_of(stage, _features(rows.train)[first : first + job.batch_size]))
    return {"losses": [losses[number] for number in range(len(rows.train))]}


def _losses_of(stage: Fit, batch: list[Features]) -> dict[int, float]:
    packed = pack(batch)
    losses_K = stage.policy(packed)
    # the document of a kept position, and so its row
    row_K = packed.row[torch.searchsorted(packed.offsets, packed.keep, right=True) - 1]
    return {item.row: float(losses_K[row_K == item.row].double().mean()) for item in batch}


def stage_of(job: Job, rows: Rows, task: type[ChatTask] = ChatTask, listeners: tuple[Listener, ...] = ()) -> Fit:
    """The one stage of the recipe as `tunesmith train` would build it; options with a dot override the recipe."""
    overrides = [f"stages.0.train.seed={job.seed}", f"stages.0.train.epochs={job.epochs}"]
    overrides += [f"{place}={value}" for place, value in job.options.items() if "." in place]
    recipe = settled(load_recipe(RECIPE, overrides), "")
    torch.set_num_threads(recipe.runtime.threads or available_cores())
    base = resolve_base(recipe.model.base)
    inputs = StageInputs(
        loaded=load_model(base.path, dtype=DTYPES[recipe.model.dtype], quantize=recipe.model.quantize),
        base=base,
        task=task.of_folder(base.path, recipe.stages[0].train.max_length),
        train_rows=_features(rows.train),
        validation_rows=_features(rows.warm_up),
        folder=Path(job.scratch) / "sft",
        conditions=Conditions(),
        task_metric=no_task_metric,
        old_rows={"ewc": _features(rows.warm_up)},
    )
    return build(recipe.stages[0], inputs, start(recipe.runtime), Events(listeners=listeners))


def _features(rows: tuple[Row, ...]) -> list[Features]:
    return [Features(number, row.token_ids, tuple(map(float, row.answer))) for number, row in enumerate(rows)]
