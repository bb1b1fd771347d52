"""The life cycle of one recipe: the main path of Tunesmith, read it first.

    start      the recipe becomes a run directory, with every open choice settled in its lock (work.py)
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

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.adapt.saved import put_beside
from tunesmith.core.conditions import MACHINE_CHANGED, differences, listed
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import read_events
from tunesmith.core.files import MANIFEST, read_json, write_atomic
from tunesmith.core.ledger import Ledger
from tunesmith.core.memory import free_memory_bytes
from tunesmith.core.run import CERTIFICATE, METRICS
from tunesmith.core.types import SPLITS, Example
from tunesmith.data import prepare as data_room
from tunesmith.data.collect.fetch import collect
from tunesmith.data.licences import check_licences
from tunesmith.data.notes import Note
from tunesmith.data.table import to_examples
from tunesmith.evaluate.answers import (
    Answers,
    Question,
    read_result,
    score_answers,
    tell_by_source,
    write_result,
)
from tunesmith.evaluate.card import write_cards
from tunesmith.evaluate.collect import collect_facts
from tunesmith.evaluate.decide import Verdict, decide
from tunesmith.evaluate.examine import examine
from tunesmith.evaluate.forgetting import ask_probes
from tunesmith.evaluate.labels import BASELINES
from tunesmith.evaluate.loss_plot import curve_from_events, loss_svg
from tunesmith.evaluate.parts import Part, parts_of
from tunesmith.models.catalog import find
from tunesmith.models.clean_room import tell_unused
from tunesmith.models.embed import TextEmbedder
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder, Loaded, folder_template
from tunesmith.models.side_by_side import policy_of
from tunesmith.needs import needs_of
from tunesmith.plan.forecast import Machine
from tunesmith.plan.machine import cpu_peak
from tunesmith.plan.make import Base, Prepared, announce, keep_plan, plan_run, refuse_blocked
from tunesmith.recipe.chain import own_rows
from tunesmith.recipe.identity import refuse_changed_sources
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.adapt import LoraSpec
from tunesmith.recipe.specs.ship import BESIDE
from tunesmith.runtime.local import LocalRuntime
from tunesmith.runtime.peak import run_peak
from tunesmith.runtime.start import start as start_runtime
from tunesmith.ship.classes import ClassShipping, publish_classes
from tunesmith.ship.lineage import Lineage
from tunesmith.ship.merge import NOTHING_INSTEAD, merge_into
from tunesmith.ship.merge_base import MERGE_BASE, MergeBase, better_base, read_merge_base, weights_beside
from tunesmith.ship.parity import PARITY
from tunesmith.ship.publish import Shipping, ship_formats
from tunesmith.ship.received import MERGED
from tunesmith.ship.teachers import (
    answers_of,
    config_in_memory,
    forget_answers,
    generator_of,
    keeps_answers,
    with_answers,
)
from tunesmith.ship.yardstick import PARITY_QUESTIONS, parity_chats, parity_metric
from tunesmith.tables import keep_labels, owners
from tunesmith.tasks.classes import ClassTask
from tunesmith.tasks.mask_gate import check_rows
from tunesmith.tasks.xray import as_page
from tunesmith.train.build import DTYPES, validation_loss
from tunesmith.train.checkpoint import BEST
from tunesmith.train.curriculum import CURRICULUM
from tunesmith.train.old_task import FISHER
from tunesmith.train.probe import accelerator_peak
from tunesmith.train.teacher import TEACHER
from tunesmith.train.used_experts import EXPERT_LOAD
from tunesmith.training import LEARNED, fit_stages
from tunesmith.work import Work, machine_now
from tunesmith.work import reopen as reopen
from tunesmith.work import start as start

XRAY_ROWS = 24


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


def _follow(work: Work, name: str, function: Callable[[Work], None]) -> None:
    """What a rank other than the first does: it joins the training, and leaves every file to the first."""
    if name == "train" and work.run.stage(name) is None:
        function(work)
    elif name == "data" and work.run.stage(name) is None:
        raise TunesmithError("lifecycle.stage_first", stage=name)


def prepare_data(work: Work) -> None:
    """Rows become examples with one fate each; the gate looks at what would be trained before anything is."""
    _prepare_data(work)
    if work.leads:
        forget_answers(work.recipe, work.run)


@_stage("data")
def _prepare_data(work: Work) -> None:
    """What `prepare_data` does where it is not done yet."""
    ledger, recipe = Ledger(), work.recipe
    compliance = recipe.goal.compliance
    check_licences(recipe.all_sources, compliance)
    collect(recipe.all_sources, work.recipe_folder, offline=recipe.model.offline)
    by_meaning = any(each.clean.semantic_duplicates is not None for each in (recipe.data, *own_rows(recipe)))
    embed = TextEmbedder() if by_meaning else None
    generator = generator_of(recipe, work.recipe_folder, work.path, work.events)
    given = (recipe.data, work.recipe_folder, ledger, recipe.stages)
    needed = needs_of(work)
    prepared = data_room.prepare(*given, generator=generator, needs=needed, embed=embed, compliance=compliance)
    refuse_changed_sources(recipe, work.recipe_folder, work.run.manifest().get("sources"))
    prepared = with_answers(recipe, prepared, work.recipe_folder, work.path, ledger, work.events)
    examples: Mapping[str, Sequence[Example]] = {name: to_examples(frame) for name, frame in prepared.tables.items()}
    keep_labels(work, examples)
    examples = work.with_stand_ins(examples)
    tasks = {name: work.task if stage is None else work.task_of(stage) for name, stage in owners(recipe, examples)}
    encoded = {name: tasks[name].encode_all(rows, ledger) for name, rows in examples.items()}
    template = folder_template(work.base().path)
    trained = [name for name in examples if not name.endswith(("validation", "test"))]
    reports = {name: check_rows(tasks[name], examples[name], encoded[name], template) for name in trained}
    prepared = prepared.keeping(set(ledger.kept_rows()))
    data_room.refuse_empty(prepared.tables, ledger)
    lengths = {split: [len(item.features.token_ids) for item in encoded[split]] for split in SPLITS}
    ledger.check(row for frame in prepared.tables.values() for row in frame["row"])
    if answers_of(work.path) and not keeps_answers(recipe):
        prepared = replace(prepared, notes=(*prepared.notes, Note("data.answers_forgotten", {})))
    written = data_room.write(prepared, work.path, lengths, compliance)
    ledger.write(work.path / "ledger.jsonl")
    pages = {work.path / "xray.html": "train"}
    pages |= {work.path / each.name / "xray.html": f"{each.name}-train" for each in recipe.stages if each.data}
    for page, name in pages.items():
        write_atomic(page, as_page(tasks[name], encoded[name][:XRAY_ROWS], reports[name].sources))
    answered = answers_of(work.path) if keeps_answers(recipe) else []
    files = [*written, work.path / "ledger.jsonl", *pages, *answered]
    work.run.record_files(*files, data_version=prepared.version.id, licences=prepared.rows_by_licence())
    for name in pages.values():
        for source, share in reports[name].sources.items():
            facts = {"rows": share.rows, "tokens": share.tokens, "share": round(share.share, 4)}
            work.events.emit("source", source=source, **facts)
    work.events.emit("rows", **{name: len(frame) for name, frame in prepared.tables.items()}, **ledger.sums())
    for note in prepared.all_notes:
        if note.is_news:
            work.events.emit("note", code=note.code, **note.facts)


@_stage("plan")
def plan(work: Work) -> None:
    """Readiness, advice and the forecast, as events and as plan.md. Errors: plan.blocked, plan.unknown_size."""
    base = work.base()
    tell_unused(base.path, work.events)
    rounded = base.origin.quantization if base.origin.lossy else ""
    fates = Ledger.load(work.path / "ledger.jsonl").totals()
    prepared = [_prepared(work, stage, fates) for stage in work.recipe.stages]
    facts = Base(read_json(base.path / "config.json"), base.licence, find(base.name), rounded)
    found, grounds = plan_run(work.recipe, prepared, facts, _machine(work.recipe))
    keep_plan(work.run, found, grounds)
    announce(found, work.events)
    refuse_blocked(found, work.path)


@_stage("baseline")
def measure_baseline(work: Work) -> None:
    """The base alone, and with solved examples in its prompt, on the test questions; of a task with classes, for which
    the base has no head, what the most frequent label and a method without any model reach."""
    if isinstance(work.task, ClassTask):
        for part in parts_of(work.recipe):
            _answer_without_model(work, part)
        return
    loaded = work.load(work.base())
    _answer(work, loaded, "base")
    if work.recipe.evaluate.examples:
        _answer(work, loaded, "base_with_examples", work.examples("train")[: work.recipe.evaluate.examples])
    ask_probes(work.run, work.recipe_folder, work.recipe.evaluate.forgetting, loaded, "base", work.events)


@_stage(
    "train",
    *(f"*/{each}/{MANIFEST}" for each in (BEST, MERGED, FISHER, TEACHER, EXPERT_LOAD, CURRICULUM)),
    f"*/{MERGE_BASE}",
)
def train(work: Work) -> None:
    """One fit a stage, each from what the one before ended with (training.py)."""
    runtime = start_runtime(work.recipe.runtime)
    try:
        fit_stages(work, runtime, run_peak(runtime, DTYPES[work.recipe.model.dtype], work.events))
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
    ask_probes(work.run, work.recipe_folder, work.recipe.evaluate.forgetting, tuned, "tuned", work.events)


@_stage("ship", f"ship/*/{MANIFEST}", f"ship/*/{PARITY}")
def ship(work: Work) -> None:
    """Publish every format whose artefact passes the parity gate. Errors: those of `ship_formats`."""
    if work.head is not None:
        for each in class_shippings(work, work.head):
            publish_classes(each, work.events)
        return
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


def test_questions(work: Work, part: Part | None = None) -> list[Question]:
    """The questions of the test split that this run asks of a task: all, or `evaluate.max_rows` of them."""
    return (part or parts_of(work.recipe)[0]).questions(work.examples("test"))


def load_tuned(work: Work) -> Loaded:
    """The base with the best change of the last stage, as the artefacts have it: merged into its weights, or put on."""
    last = work.recipe.stages[-1]
    base, change = work.received(last), _proven_change(work)
    if last.adapt.mergeable:
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
    quantize, runtime = work.recipe.model.quantize, LocalRuntime(work.recipe.runtime)
    task, rows = work.task_of(stage), work.features("validation", stage)
    found = better_base(
        base,
        change,
        quantize,
        _weights_beside(work, base),
        lambda: work.load(base),
        lambda loaded: validation_loss(stage, loaded, task, rows, runtime),
        fixed=bool(set(BESIDE) & set(work.recipe.formats)),
    )
    path = work.path / stage.name / MERGE_BASE
    with work.run.replacing(path):
        found.write(path)
    work.events.emit("merge_base", stage=stage.name, **asdict(found))


def _is_merged_by_measurement(work: Work) -> bool:
    """Whether there are two bases to choose from; what is not merged stands beside the original one."""
    return work.recipe.model.quantize != "none" and work.recipe.stages[-1].adapt.mergeable


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
    return _weights_beside(work, base)


def _weights_beside(work: Work, base: BaseFolder) -> Mapping[str, Tensor]:
    """The dense weights that the last stage's change was trained beside."""
    model, adapt = work.recipe.model, work.recipe.stages[-1].adapt
    start = work.change if isinstance(adapt, LoraSpec) and adapt.out_of_the_base else None
    return weights_beside(base, model.quantize, DTYPES[model.dtype], work.head, start)


def _answer(work: Work, loaded: Loaded, label: str, shown: Sequence[Example] = ()) -> None:
    """Ask the test questions of every task, score the answers and keep both; what an earlier call has kept stays."""
    whole = policy_of(loaded.model, loaded.head)
    for part in parts_of(work.recipe):
        path = work.path / "evaluate" / part.file(label)
        if path.exists() and work.run.recorded(path):
            continue
        policy, task, questions = part.seen_by(whole), part.of(work.task), test_questions(work, part)
        answers = examine(policy, task, questions, part.spec, work.events, label=label, shown=shown)
        _keep_answers(work, part, label, answers)


def _answer_without_model(work: Work, part: Part) -> None:
    task, train, questions = part.of(work.task), part.rows(work.examples("train")), test_questions(work, part)
    if not isinstance(task, ClassTask):
        raise TypeError(f"{type(task).__name__} has no classes")
    for name in part.baselines:
        _keep_answers(work, part, name, Answers(tuple(BASELINES[name](task, train, questions)), 0, 0.0, ()))


def _keep_answers(work: Work, part: Part, label: str, answers: Answers) -> None:
    path, questions = work.path / "evaluate" / part.file(label), test_questions(work, part)
    result = score_answers(answers, questions, part.spec)
    write_result(path, result, questions)
    work.run.record_files(path)
    figures = part.named(result.scores.report.metrics)
    work.events.emit("result", model=label, rows=len(questions), **figures)
    tell_by_source(result, questions, work.examples("test"), label, work.events)


def _prepared(work: Work, stage: StageSpec, fates: Mapping[str, int]) -> Prepared:
    """What the plan of a stage is made from."""
    head, rows = work.head_of(stage), {split: work.features(split, stage) for split in LEARNED}
    return Prepared(
        {**rows, "test": work.features("test")},
        work.examples("train", stage),
        fates,
        work.recipe_folder,
        work.old_features(stage),
        len(head.labels) if head else 0,
        config_in_memory(work.recipe, stage, work.recipe_folder),
    )


def _machine(recipe: Recipe) -> Machine:
    """This machine as the forecast sees it: its fastest product and its free memory."""
    device, dtype = torch.device(recipe.runtime.device), recipe.model.dtype
    peak = cpu_peak(dtype, recipe.runtime.threads) if device.type == "cpu" else accelerator_peak(device, DTYPES[dtype])
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
    return Machine(device.type, dtype, peak, free, recipe.evaluate.machine_cost_per_hour)


def class_shippings(work: Work, head: Head) -> list[ClassShipping]:
    """What the model of every task with a head is published from, and what it is held against."""
    work.run.check_files("evaluate")
    base, change, found = work.received(work.recipe.stages[-1]), _proven_change(work), []
    for part in parts_of(work.recipe):
        questions = test_questions(work, part)
        tuned = read_result(work.path / "evaluate" / part.file("tuned"), questions, part.spec)
        shipping = ClassShipping(
            work.path,
            base,
            change,
            head,
            work.max_length,
            questions[:PARITY_QUESTIONS],
            tuned.answers.texts[:PARITY_QUESTIONS],
            part.spec.metrics[0],
            work.recipe.ship.parity,
            part.name,
            _instead(work, base),
            merge_base(work),
            Lineage.of(work.recipe, work.base()),
        )
        found.append(shipping)
    return found


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
    base = work.received(work.recipe.stages[-1])
    return Shipping(
        work.path,
        base,
        _proven_change(work),
        chats,
        parity_metric(spec, questions, tuned),
        limits,
        _instead(work, base),
        merge_base(work),
        Lineage.of(work.recipe, work.base()),
    )
