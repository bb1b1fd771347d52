"""The fits of a run, one a stage: each starts from what the one before ended with, and hands on what it ends with."""

from __future__ import annotations

from pathlib import Path

from tunesmith.adapt.base import frozen_digest
from tunesmith.core.conditions import Conditions
from tunesmith.core.events import Emitter, OfStage
from tunesmith.core.files import MANIFEST, read_manifest
from tunesmith.core.run import METRICS
from tunesmith.core.types import SplitName
from tunesmith.data import prepare as data_room
from tunesmith.models.load import BaseFolder
from tunesmith.plan.forecast import ProbeResult
from tunesmith.plan.track import Outcome, after_fit, after_probe, raised_to
from tunesmith.recipe.chain import is_continued, with_own_seed
from tunesmith.recipe.identity import settings
from tunesmith.recipe.recipe import StageSpec
from tunesmith.runtime.base import Runtime
from tunesmith.runtime.peak import Peak
from tunesmith.ship.received import begin_of, hand_on
from tunesmith.ship.teachers import teacher_of_logits
from tunesmith.train.build import StageInputs, build
from tunesmith.train.checkpoint import BEST, checkpoint_paths
from tunesmith.train.efficiency import efficiency_facts
from tunesmith.train.loop import Job, fit
from tunesmith.train.memory import release
from tunesmith.train.probe import peak_bytes, step_cost
from tunesmith.train.validation import answered_metric
from tunesmith.work import Work, base_facts, machine_now

LEARNED: tuple[SplitName, ...] = ("train", "validation")
"""Splits that a stage has, be they the run's or its own."""


def fit_stages(work: Work, runtime: Runtime, peak: Peak) -> None:
    """One fit a stage, in order; each goes on from the newest whole checkpoint of its own, if there is one."""
    stages = work.recipe.stages
    for place, stage in enumerate(stages, 1):
        is_done = work.run.stage(f"train/{stage.name}") is not None
        if len(stages) > 1:
            work.events.emit("fit", stage=stage.name, place=place, of=len(stages), done=is_done)
        if not is_done:
            _fit_stage(work, stage, runtime, peak)
        runtime.barrier()  # the first process alone has written what the next stage reads
        if place < len(stages) and work.leads and not is_done:
            release(cycles=True)  # the fit's model has gone; the merge needs its room
            hand_on(work.run, work.recipe, stage, work.base(), work.head_of(stage), work.events)
            work.run.finish_stage(f"train/{stage.name}", work.path / stage.name / BEST / MANIFEST)
        runtime.barrier()


def _fit_stage(work: Work, stage: StageSpec, runtime: Runtime, peak: Peak) -> None:
    emitter: Emitter = work.events if len(work.recipe.stages) == 1 else OfStage(work.events, stage.name)
    held_before = peak_bytes(runtime)
    job = build_stage(work, stage, runtime, work.path / stage.name, emitter)
    frozen = frozen_digest(job.policy, job.optimizer.masters)
    forecast_holds = runtime.size == 1  # the plan knows of one process
    if forecast_holds and not checkpoint_paths(work.path / stage.name):
        cost = step_cost(job)
        probe = ProbeResult(cost.seconds_per_token, raised_to(cost.peak_bytes, held_before))
        after_probe(work.path, stage, probe, emitter)
    result = fit(job)
    if forecast_holds:
        most = raised_to(peak_bytes(runtime), held_before)
        outcome = Outcome(result.progress.step, result.progress.seconds, most)
        after_fit(work.path, work.path / METRICS, stage, outcome, emitter)
    emitter.emit("frozen", stage=stage.name, unchanged=frozen == frozen_digest(job.policy, job.optimizer.masters))
    emitter.emit("fit_end", stage=stage.name, **result.facts())
    figures = efficiency_facts(result.progress.work, result.progress.seconds, peak)
    if figures:
        emitter.emit("efficiency", stage=stage.name, **figures)


def build_stage(work: Work, stage: StageSpec, runtime: Runtime, folder: Path, emitter: Emitter) -> Job:
    """One stage's fit in a folder, ready to begin or to go on.

    Errors: those of `build`, `received_base` and `begin_of`.
    """
    base, task = work.received(stage), work.task_of(stage)
    teacher = teacher_of_logits(work.recipe, stage, work.recipe_folder)
    train, validation = (work.examples(split, stage) for split in LEARNED)
    old = work.old_examples(stage)
    begin, begin_sha256 = begin_of(work.run, work.recipe, stage)
    conditions = _conditions(work, base, runtime)
    if teacher is not None:
        conditions = conditions.and_input("teacher", teacher.sha256)
    if begin:
        conditions = conditions.and_input("begin", begin_sha256)
    inputs = StageInputs(
        loaded=work.load_to_train(stage, base),
        base=base,
        task=task,
        train_rows=[task.encode(each).features for each in train],
        validation_rows=[task.encode(each).features for each in validation],
        folder=folder,
        conditions=conditions,
        task_metric=answered_metric(task, validation, stage.train.early_stopping, work.recipe.evaluate, emitter),
        accept_machine=work.accept_machine,
        old_rows={what: [task.encode(each).features for each in rows] for what, rows in old.items()},
        kept=work.path / stage.name,
        teacher=teacher,
        tasks={each.row: each.origin.source for each in (*train, *validation, *old.get("replay", ()))},
        begin=begin,
        begin_sha256=begin_sha256,
        continued=is_continued(work.recipe, stage),
    )
    return build(with_own_seed(work.recipe, stage), inputs, runtime, emitter)


def _conditions(work: Work, base: BaseFolder, runtime: Runtime) -> Conditions:
    """All that a training of this run depends on."""
    rows = read_manifest(work.path / data_room.FOLDER)["files"]
    inputs = settings(work.recipe, "model", "stages", "evaluate") | {"processes": str(runtime.size)}
    if isinstance(rows, dict):
        inputs |= {f"{data_room.FOLDER}/{name}": str(digest) for name, digest in rows.items()}
    return Conditions(inputs | base_facts(base), machine_now(work.recipe))
