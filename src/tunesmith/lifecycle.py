"""The life cycle of one recipe: the main path of Tunesmith, read it first.

    start      the recipe becomes a run directory, with every open choice settled in its lock
    data       rows are read, cleaned, split, encoded; the gate looks at the masks
    plan       is this a good idea, and what will it cost
    baseline   the untouched model answers the test questions, before anything is trained
    train      one fit a stage
    evaluate   the tuned model answers the same questions
    ship       it is published in every format that gives the same answers
    card       one page to decide by

Every stage reads and writes the run directory and is skipped when it is done: a run that was stopped, killed or
started by several commands ends as the unbroken one would.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.adapt.base import frozen_digest
from tunesmith.adapt.saved import kind_of, put_beside
from tunesmith.compat.check import check
from tunesmith.core.conditions import MACHINE_CHANGED, Conditions, differences, listed, machine_conditions
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Emitter, Events, Listener, read_events
from tunesmith.core.files import MANIFEST, read_json, read_manifest, sha256_file, write_atomic
from tunesmith.core.ledger import Ledger
from tunesmith.core.memory import free_memory_bytes
from tunesmith.core.process import available_cores
from tunesmith.core.run import CERTIFICATE, LOCK, METRICS, Run, list_runs, one_at_a_time
from tunesmith.core.types import SPLITS, Example, SplitName
from tunesmith.data import prepare as data_room
from tunesmith.data.table import to_examples
from tunesmith.evaluate.answers import Question, ask_all, drawn_questions, read_result, score_answers, write_result
from tunesmith.evaluate.card import write_cards
from tunesmith.evaluate.collect import collect_facts
from tunesmith.evaluate.decide import Verdict, decide
from tunesmith.evaluate.forgetting import margins_path, measure_margins, write_margins
from tunesmith.evaluate.loss_plot import curve_from_events, loss_svg
from tunesmith.evaluate.probes import probe_file, read_probes
from tunesmith.models.catalog import find
from tunesmith.models.clean_room import tell_unused
from tunesmith.models.load import BaseFolder, Loaded, folder_template, load_model, resolve_base
from tunesmith.models.nf4 import require_nf4
from tunesmith.models.packed import Features
from tunesmith.models.texts import texts_sha256
from tunesmith.plan.forecast import Machine, ProbeResult
from tunesmith.plan.machine import cpu_peak
from tunesmith.plan.make import Base, Prepared, announce, keep_plan, plan_run, refuse_blocked
from tunesmith.plan.track import Outcome, after_fit, after_probe, raised_to
from tunesmith.recipe.identity import anchored, identity, refuse_changed_sources, settings, source_hashes
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.ship import BESIDE
from tunesmith.runtime.base import Runtime
from tunesmith.runtime.local import LocalRuntime
from tunesmith.runtime.peak import Peak, place_of, run_peak
from tunesmith.runtime.start import start as start_runtime
from tunesmith.ship.merge import NOTHING_INSTEAD, merge_into
from tunesmith.ship.merge_base import MERGE_BASE, MergeBase, better_base, read_merge_base, weights_beside
from tunesmith.ship.parity import PARITY
from tunesmith.ship.publish import Shipping, ship_formats
from tunesmith.ship.teachers import ANSWERS, teacher_of_logits, with_answers
from tunesmith.ship.yardstick import parity_chats, parity_metric
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.mask_gate import check_masks
from tunesmith.tasks.xray import as_page
from tunesmith.train.build import DTYPES, StageInputs, build, validation_loss
from tunesmith.train.checkpoint import BEST, checkpoint_paths
from tunesmith.train.efficiency import efficiency_facts
from tunesmith.train.loop import Job, fit
from tunesmith.train.old_task import FISHER
from tunesmith.train.probe import accelerator_peak, peak_bytes, step_cost
from tunesmith.train.settle import settled
from tunesmith.train.teacher import TEACHER, TeacherModel
from tunesmith.train.validation import answered_metric

XRAY_ROWS = 24


@dataclass(frozen=True)
class Work:
    """A run being worked on: its directory, its locked recipe, where the recipe's paths start, and who listens.

    With `accept_machine` a training goes on under other versions, on another processor or with other threads than its
    checkpoint was made under; the run and its card say so.
    """

    run: Run
    recipe: Recipe
    recipe_folder: Path
    events: Events
    accept_machine: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files: the only one, or the first of a distributed launch."""
        return self.recipe.runtime.kind == "local" or os.environ.get("RANK", "0") == "0"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def change(self) -> Path:
        """The best change of the last stage: what is evaluated and published."""
        return self.path / self.recipe.stages[-1].name / BEST

    def base(self) -> BaseFolder:
        """The base model, its weights hashed anew at every call and equal to those that the run began with.

        Errors: those of `resolve_base`, lifecycle.base_changed.
        """
        spec = self.recipe.model
        base = resolve_base(spec.base, revision=spec.revision, offline=spec.offline or None)
        manifest, found = self.run.manifest(), _base_facts(base)
        changed = differences({name: str(manifest.get(name)) for name in found}, found)
        if changed:
            raise TunesmithError(
                "lifecycle.base_changed", base=spec.base, path=str(base.path), differences=listed(changed)
            )
        return base

    def load(self, base: BaseFolder) -> Loaded:
        """The base in memory in the locked number format."""
        return load_model(base.path, dtype=DTYPES[self.recipe.model.dtype], device=self.recipe.runtime.device)

    def load_to_train(self, base: BaseFolder) -> Loaded:
        """The base in the form that it is trained in: quantised where the recipe says so, and nowhere else."""
        model, device = self.recipe.model, self.recipe.runtime.device
        return load_model(base.path, dtype=DTYPES[model.dtype], device=device, quantize=model.quantize)

    @cached_property
    def task(self) -> ChatTask:
        """The task with the base's own tokenizer and template."""
        return ChatTask.of_folder(self.base().path, self.recipe.stages[0].train.max_length)

    def examples(self, split: SplitName) -> list[Example]:
        """The rows of a split. Errors: those of `load_splits`."""
        return to_examples(data_room.load_split(self.path, split))

    def features(self, split: SplitName) -> list[Features]:
        """The rows of a split as token ids and loss weights."""
        return [self.task.encode(example).features for example in self.examples(split)]

    def old_features(self, stage: StageSpec) -> dict[str, list[Features]]:
        """The encoded rows of older tasks, by what a stage wants with them. Errors: those of `load_old`."""
        if not stage.old_sources:
            return {}
        tables = data_room.load_old(self.path)
        examples = {what: to_examples(tables[f"{stage.name}-{what}"]) for what in stage.old_sources}
        return {what: [self.task.encode(each).features for each in rows] for what, rows in examples.items()}


# ---------------------------------------------------------------------------------------------------- start


def start(
    recipe_path: Path, overrides: Sequence[str], root: Path, listeners: tuple[Listener, ...], *, new: bool = False
) -> Work:
    """The unfinished or finished run of this very recipe and these very files, or a new one.

    Errors: those of `load_recipe`, `check`, `require_nf4`, `resolve_base` and `Run.create`; lifecycle.run_differs where
    a run of this name was broken off in its training and the recipe has changed since.
    """
    folder = recipe_path.resolve().parent
    recipe = anchored(load_recipe(recipe_path, overrides), folder)
    check(recipe)
    if recipe.model.quantize == "nf4":
        require_nf4()
    sources = source_hashes(recipe, folder)
    key = identity(recipe, sources)
    run = None if new else _newest(root, recipe.name, key)
    if run is None:
        # Before the lock: nobody need wait while a base is downloaded.
        base = resolve_base(recipe.model.base, revision=recipe.model.revision, offline=recipe.model.offline or None)
        lock = settled(recipe, base.revision)
        with one_at_a_time(root):
            run = None if new else _newest(root, recipe.name, key) or _broken_off(root, lock, sources)
            run = run or _make(root, key, lock, recipe_path, base, sources)
    return reopen(run.path, listeners)


def _newest(root: Path, name: str, key: str) -> Run | None:
    """The newest run of this very recipe and these very files."""
    found = [run for run in list_runs(root, name, key) if run.manifest().get("recipe_sha256") == key]
    return found[-1] if found else None


def _make(root: Path, key: str, lock: Recipe, recipe_path: Path, base: BaseFolder, sources: Mapping[str, str]) -> Run:
    machine = machine_now(lock)
    facts = {
        **_base_facts(base),
        "recipe_folder": str(recipe_path.resolve().parent),
        "base": base.name,
        "base_licence": base.licence,
        "base_origin": vars(base.origin),
        "sources": sources,
        "conditions": machine,
        "threads": int(machine["threads"]),
    }
    files = {"recipe.yaml": recipe_path.read_bytes(), LOCK: lock.as_yaml().encode()}
    return Run.create(root, lock.name, key, facts, files)


def _base_facts(base: BaseFolder) -> dict[str, str]:
    """What identifies a base: its weights, and the files beside them."""
    return {"base_sha256": base.sha256, "base_texts_sha256": texts_sha256(base.path)}


def _broken_off(root: Path, lock: Recipe, sources: Mapping[str, str]) -> Run | None:
    """The run of this name whose training was broken off, if its lock says the same in the end.

    Errors: lifecycle.run_differs; it is not left behind in silence because its recipe or rows have changed since.
    """
    for run in reversed(list_runs(root, lock.name)):
        if run.is_owned() or not any(run.path.glob("*/checkpoint-*")) or run.stage("train") is not None:
            continue
        manifest = run.manifest()
        stated = manifest.get("sources")
        was = {**settings(load_recipe(run.path / LOCK)), **(stated if isinstance(stated, dict) else {})}
        found = differences(was, {**settings(lock), **sources})
        if found:
            raise TunesmithError("lifecycle.run_differs", path=str(run.path), differences=listed(found))
        return run
    return None


def reopen(path: Path, listeners: tuple[Listener, ...]) -> Work:
    """A run directory to work on. Errors: core.not_a_run, core.hash_differs when its lock was edited."""
    run = Run.open(path)
    manifest = run.manifest()
    files = manifest["files"]
    if isinstance(files, dict) and files.get(LOCK) != sha256_file(path / LOCK):
        raise TunesmithError("core.hash_differs", path=str(path / LOCK))
    recipe = load_recipe(path / LOCK)
    torch.set_num_threads(recipe.runtime.threads or available_cores())
    work = Work(run, recipe, Path(str(manifest["recipe_folder"])), Events(path / METRICS, listeners))
    return work if work.leads else replace(work, events=SILENT)


# ----------------------------------------------------------------------------------------- the stages in order


def run_to_release(work: Work) -> Verdict:
    """Every stage that is not done yet, then the verdict."""
    for stage in (prepare_data, plan, measure_baseline, train, evaluate, ship):
        stage(work)
    return make_card(work)


def _stage(name: str, *proven: str) -> Callable[[Callable[[Work], None]], Callable[[Work], None]]:
    """Make a function a stage: said when it starts and ends, skipped when it is done.

    `proven` are patterns of files that the run's manifest vouches for from then on.
    """

    def decorate(function: Callable[[Work], None]) -> Callable[[Work], None]:
        def stage(work: Work) -> None:
            if not work.leads:
                _follow(work, name, function)
                return
            if work.run.stage(name) is not None:
                work.events.emit("stage_skipped", stage=name)
                return
            work.events.emit("stage", stage=name)
            started = time.perf_counter()
            function(work)
            _say_what_changed(work, name)
            seconds = round(time.perf_counter() - started, 3)
            files = [path for pattern in proven for path in sorted(work.path.glob(pattern))]
            work.run.finish_stage(name, *files, seconds=seconds)
            work.events.emit("stage_end", stage=name, seconds=seconds)

        stage.__doc__ = function.__doc__
        stage.__name__ = function.__name__
        return stage

    return decorate


def _say_what_changed(work: Work, name: str) -> None:
    """Say, in the run and on its card, that a stage was done under other conditions than the run began with."""
    was = work.run.manifest().get("conditions")
    found = differences(was, machine_now(work.recipe)) if isinstance(was, dict) else ()
    if found:
        work.events.emit("alarm", code=MACHINE_CHANGED, stage=name, differences=listed(found))


def machine_now(recipe: Recipe) -> dict[str, str]:
    """This machine as a locked recipe uses it."""
    threads = recipe.runtime.threads or available_cores()
    return machine_conditions(threads, place_of(torch.device(recipe.runtime.device)).processor)


def _follow(work: Work, name: str, function: Callable[[Work], None]) -> None:
    """What a rank other than the first does: it joins the training, and leaves every file to the first."""
    if name == "train" and work.run.stage(name) is None:
        function(work)
    elif name == "data" and work.run.stage(name) is None:
        raise TunesmithError("lifecycle.stage_first", stage=name)


@_stage("data")
def prepare_data(work: Work) -> None:
    """Rows become examples with one fate each; the gate looks at what would be trained before anything is."""
    task, ledger = work.task, Ledger()
    prepared = data_room.prepare(work.recipe.data, work.recipe_folder, ledger, work.recipe.old_sources)
    refuse_changed_sources(work.recipe, work.recipe_folder, work.run.manifest().get("sources"))
    prepared = with_answers(work.recipe, prepared, work.recipe_folder, work.path, ledger, work.events)
    examples = {name: to_examples(frame) for name, frame in prepared.tables.items()}
    encoded = {name: task.encode_all(rows, ledger) for name, rows in examples.items()}
    template = folder_template(work.base().path)
    report = check_masks(task, examples["train"], encoded["train"], template)
    for name in prepared.old:
        check_masks(task, examples[name], encoded[name], template)
    kept = set(ledger.kept_rows())
    frames = {split: frame.filter(frame["row"].is_in(kept)) for split, frame in prepared.frames.items()}
    old = {name: frame.filter(frame["row"].is_in(kept)) for name, frame in prepared.old.items()}
    prepared = replace(prepared, frames=frames, old=old)
    data_room.refuse_empty(prepared.tables, ledger)
    lengths = {split: [len(item.features.token_ids) for item in encoded[split]] for split in SPLITS}
    ledger.check(row for frame in prepared.tables.values() for row in frame["row"])
    written = data_room.write(prepared, work.path, lengths)
    ledger.write(work.path / "ledger.jsonl")
    write_atomic(work.path / "xray.html", as_page(task, encoded["train"][:XRAY_ROWS], report.sources))
    files = [work.path / "ledger.jsonl", work.path / "xray.html", *work.path.glob(ANSWERS)]
    work.run.record_files(*written, *files)
    for source, share in report.sources.items():
        work.events.emit("source", source=source, rows=share.rows, tokens=share.tokens, share=round(share.share, 4))
    work.events.emit("rows", **{name: len(frame) for name, frame in prepared.tables.items()}, read=len(ledger))


@_stage("plan")
def plan(work: Work) -> None:
    """Readiness, advice and the forecast, as events and as plan.md. Errors: plan.blocked, plan.unknown_size."""
    base = work.base()
    tell_unused(base.path, work.events)
    rounded = base.origin.quantization if base.origin.lossy else ""
    fates = Ledger.load(work.path / "ledger.jsonl").totals()
    prepared = Prepared(
        {split: work.features(split) for split in SPLITS},
        work.examples("train"),
        fates,
        work.recipe_folder,
        work.old_features(work.recipe.stages[0]),
    )
    facts = Base(read_json(base.path / "config.json"), base.licence, find(base.name), rounded)
    found, grounds = plan_run(work.recipe, prepared, facts, _machine(work.recipe))
    keep_plan(work.run, found, grounds)
    announce(found, work.events)
    refuse_blocked(found, work.path)


@_stage("baseline")
def measure_baseline(work: Work) -> None:
    """The base alone, and the base with solved examples in its prompt, on the test questions."""
    loaded = work.load(work.base())
    _answer(work, loaded, "base")
    if work.recipe.evaluate.examples:
        _answer(work, loaded, "base_with_examples", work.examples("train")[: work.recipe.evaluate.examples])
    _ask_probes(work, loaded, "base")


@_stage("train", *(f"*/{each}/{MANIFEST}" for each in (BEST, FISHER, TEACHER)), f"*/{MERGE_BASE}")
def train(work: Work) -> None:
    """One fit a stage; each starts from the newest whole checkpoint of its own, if there is one."""
    runtime = start_runtime(work.recipe.runtime)
    try:
        peak = run_peak(runtime, DTYPES[work.recipe.model.dtype], work.events)
        for stage in work.recipe.stages:
            _fit_stage(work, stage, runtime, peak)
    finally:
        runtime.close()
    if not work.leads:
        return
    if _is_merged_by_measurement(work):
        _choose_merge_base(work)
    curve = curve_from_events(read_events(work.path / METRICS))
    with work.run.replacing(work.path / "loss.svg"):
        write_atomic(work.path / "loss.svg", loss_svg(curve))


@_stage("evaluate")
def evaluate(work: Work) -> None:
    """The tuned model, merged or with its change beside it, as it will ship, on the questions that the base got."""
    tuned = load_tuned(work)
    _answer(work, tuned, "tuned")
    _ask_probes(work, tuned, "tuned")


@_stage("ship", f"ship/*/{MANIFEST}", f"ship/*/{PARITY}")
def ship(work: Work) -> None:
    """Publish every format whose artefact passes the parity gate. Errors: those of `ship_formats`."""
    ship_formats(shipping(work), work.recipe.formats, work.events)


def make_card(work: Work) -> Verdict:
    """Gather the facts, decide, and write the release card. Made anew each time: it costs nothing.

    Errors: those of `Run.check_files` and `collect_facts`; core.unknown_file for a proof that no stage has left.
    """
    work.run.check_files("evaluate", "ledger.jsonl", "ship", CERTIFICATE)
    for proof in (work.path / CERTIFICATE, *work.path.glob(f"ship/*/{PARITY}")):
        if proof.exists() and not work.run.recorded(proof):
            raise TunesmithError("core.unknown_file", path=str(proof))
    facts = collect_facts(work.path, work.recipe)
    with work.run.replacing(work.path / "release_card.html", work.path / "release_card.md"):
        write_cards(work.path, facts)
    verdict = decide(facts)
    work.events.emit("verdict", verdict=verdict.decision)
    return verdict


# ---------------------------------------------------------------------------------------------------- parts


def test_questions(work: Work) -> list[Question]:
    """The questions of the test split that this run asks: all, or `evaluate.max_rows` of them."""
    return drawn_questions(work.examples("test"), work.recipe.evaluate.max_rows, work.recipe.data.split.seed)


def load_tuned(work: Work) -> Loaded:
    """The base with the best change of the last stage, as the artefacts have it: merged into its weights, or put on."""
    base, change = work.base(), _proven_change(work)
    if kind_of(change).mergeable:
        return merge_into(work.load(base), base, change, _instead(work, base))
    return put_beside(work.load(base), base, change)


def _proven_change(work: Work) -> Path:
    """The best change, its manifest held against the run's; its files are held against that where they are read.

    Errors: core.missing_file, core.hash_differs.
    """
    work.run.check_files(f"{work.recipe.stages[-1].name}/{BEST}")
    return work.change


def _choose_merge_base(work: Work) -> None:
    """Merge the best change with the base's own weights and with those that it was trained beside; the better stays."""
    stage, base, change = work.recipe.stages[-1], work.base(), work.change
    quantize, rows, runtime = work.recipe.model.quantize, work.features("validation"), LocalRuntime(work.recipe.runtime)
    found = better_base(
        base,
        change,
        quantize,
        weights_beside(base, quantize, DTYPES[work.recipe.model.dtype]),
        lambda: work.load(base),
        lambda loaded: validation_loss(stage, loaded, work.task, rows, runtime),
        fixed=bool(set(BESIDE) & set(work.recipe.formats)),
    )
    path = work.path / stage.name / MERGE_BASE
    with work.run.replacing(path):
        found.write(path)
    work.events.emit("merge_base", stage=stage.name, **asdict(found))


def _is_merged_by_measurement(work: Work) -> bool:
    """Whether there are two bases to choose from; what is not merged stands beside the original one."""
    return work.recipe.model.quantize != "none" and kind_of(work.change).mergeable


def merge_base(work: Work) -> MergeBase | None:
    """What the change is merged with, as it was measured; None where there was no choice.

    Errors: core.missing_file, core.hash_differs.
    """
    if not _is_merged_by_measurement(work):
        return None
    path = work.path / work.recipe.stages[-1].name / MERGE_BASE
    work.run.check_files(path.relative_to(work.path).as_posix())
    return read_merge_base(path)


def _instead(work: Work, base: BaseFolder) -> Mapping[str, Tensor]:
    """Weights that stand in for the base's own in the tuned model."""
    found = merge_base(work)
    if found is None or found.chosen == "original":
        return NOTHING_INSTEAD
    return weights_beside(base, found.quantize, DTYPES[work.recipe.model.dtype])


def _answer(work: Work, loaded: Loaded, label: str, shown: Sequence[Example] = ()) -> None:
    """Ask the test questions, score the answers and keep both; what an earlier call has kept stays."""
    path = work.path / "evaluate" / f"{label}.json"
    if path.exists() and work.run.recorded(path):
        return
    spec, questions = work.recipe.evaluate, test_questions(work)
    answers = ask_all(loaded.model, work.task, questions, spec, work.events, label=label, shown=shown)
    result = score_answers(answers, questions, spec)
    write_result(path, result, questions)
    work.run.record_files(path)
    work.events.emit("result", model=label, rows=len(questions), **result.scores.report.metrics)


def _ask_probes(work: Work, loaded: Loaded, label: str) -> None:
    """Score the choices of every probe and keep the margins; what an earlier call has kept stays."""
    for place, stated in enumerate(work.recipe.evaluate.forgetting):
        path = margins_path(work.path, place, label)
        if path.exists() and work.run.recorded(path):
            continue
        probes = read_probes(probe_file(stated, work.recipe_folder))
        found = measure_margins(loaded, probes, work.events)
        write_margins(path, found)
        work.run.record_files(path)
        work.events.emit("probed", model=label, probe=stated, rows=len(probes), margin=found.mean, right=found.accuracy)


def _machine(recipe: Recipe) -> Machine:
    """This machine as the forecast sees it: its fastest product and its free memory."""
    device, dtype = torch.device(recipe.runtime.device), recipe.model.dtype
    peak = cpu_peak(dtype, recipe.runtime.threads) if device.type == "cpu" else accelerator_peak(device, DTYPES[dtype])
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
    return Machine(device.type, dtype, peak, free, recipe.evaluate.machine_cost_per_hour)


def _fit_stage(work: Work, stage: StageSpec, runtime: Runtime, peak: Peak) -> None:
    held_before = peak_bytes(runtime)
    job = build_stage(work, stage, runtime, work.path / stage.name, work.events)
    frozen = frozen_digest(job.policy, job.optimizer.masters)
    forecast_holds = runtime.size == 1  # the plan knows of one process
    if forecast_holds and not checkpoint_paths(work.path / stage.name):
        cost = step_cost(job)
        probe = ProbeResult(cost.seconds_per_token, raised_to(cost.peak_bytes, held_before))
        after_probe(work.path, stage, probe, work.events)
    result = fit(job)
    if forecast_holds:
        most = raised_to(peak_bytes(runtime), held_before)
        outcome = Outcome(result.progress.step, result.progress.seconds, most)
        after_fit(work.path, work.path / METRICS, stage, outcome, work.events)
    work.events.emit("frozen", stage=stage.name, unchanged=frozen == frozen_digest(job.policy, job.optimizer.masters))
    work.events.emit("fit_end", stage=stage.name, **result.facts())
    figures = efficiency_facts(result.progress.work, result.progress.seconds, peak)
    if figures:
        work.events.emit("efficiency", stage=stage.name, **figures)


def build_stage(work: Work, stage: StageSpec, runtime: Runtime, folder: Path, emitter: Emitter) -> Job:
    """One stage's fit in a folder, ready to begin or to go on. Errors: those of `build`."""
    base, teacher = work.base(), teacher_of_logits(work.recipe, stage, work.recipe_folder)
    inputs = StageInputs(
        loaded=work.load_to_train(base),
        base=base,
        task=work.task,
        train_rows=work.features("train"),
        validation_rows=work.features("validation"),
        folder=folder,
        conditions=_conditions(work, base, runtime, teacher),
        task_metric=answered_metric(
            work.task, work.examples("validation"), stage.train.early_stopping, work.recipe.evaluate, emitter
        ),
        accept_machine=work.accept_machine,
        old_rows=work.old_features(stage),
        kept=work.path / stage.name,
        teacher=teacher,
    )
    return build(stage, inputs, runtime, emitter)


def _conditions(work: Work, base: BaseFolder, runtime: Runtime, teacher: TeacherModel | None) -> Conditions:
    """All that a training of this run depends on."""
    rows = read_manifest(work.path / data_room.FOLDER)["files"]
    inputs = settings(work.recipe, "model", "stages", "evaluate") | {"processes": str(runtime.size)}
    if isinstance(rows, dict):
        inputs |= {f"{data_room.FOLDER}/{name}": str(digest) for name, digest in rows.items()}
    taught = {"teacher": teacher.sha256} if teacher else {}
    return Conditions(inputs | _base_facts(base) | taught, machine_now(work.recipe))


def shipping(work: Work) -> Shipping:
    """What is published from, and what it is held against."""
    limits = work.recipe.ship.parity
    chats = parity_chats([*work.examples("test"), *work.examples("train")], limits.chats)
    if len(chats) < limits.chats:
        work.events.emit("note", code="ship.fewer_chats", chats=len(chats), wanted=limits.chats)
        limits = limits.model_copy(update={"chats": len(chats)})
    questions, spec = test_questions(work), work.recipe.evaluate
    work.run.check_files("evaluate")
    tuned = read_result(work.path / "evaluate" / "tuned.json", questions, spec)
    base = work.base()
    return Shipping(
        work.path,
        base,
        _proven_change(work),
        chats,
        parity_metric(spec, questions, tuned),
        limits,
        _instead(work, base),
        merge_base(work),
    )
