"""Gather the facts of a release card from the files of a run: what is not in a file is not claimed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.conditions import MACHINE_ACCEPTED, MACHINE_CHANGED
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, read_events
from tunesmith.core.files import read_json, read_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import CERTIFICATE, METRICS
from tunesmith.core.types import SPLITS, Example
from tunesmith.data.licences import commercial_use
from tunesmith.data.prepare import load_beside, load_splits, load_tables
from tunesmith.data.table import to_examples
from tunesmith.evaluate.answers import Question, Result, read_result
from tunesmith.evaluate.card_facts import (
    ArtefactFacts,
    CardFacts,
    CutFacts,
    DataFacts,
    ExampleRow,
    ForgettingLine,
    GoalFacts,
    MergeFacts,
    MetricLine,
    ParityCheck,
    SourceFacts,
    SpeedLine,
    TrainingFacts,
    Unmeasured,
)
from tunesmith.evaluate.cost import Cost, cost
from tunesmith.evaluate.forgetting import margins_path, read_margins
from tunesmith.evaluate.gain import gain
from tunesmith.evaluate.intervals import paired_gain, wilson
from tunesmith.evaluate.loss_plot import curve_from_events
from tunesmith.evaluate.method import method_of
from tunesmith.evaluate.metrics import SHARES
from tunesmith.evaluate.parts import Part, parts_of
from tunesmith.evaluate.speed import speed
from tunesmith.evaluate.stages import stages_of
from tunesmith.evaluate.support_rate import SupportRate, support_rate, votes_by_metric
from tunesmith.evaluate.wording import Words, metric_words, words_of
from tunesmith.recipe.recipe import Recipe

_SHOWN_EXAMPLES = 4
_BASELINE_WORDS = {"base": "card_first_baseline"}
"""Where the words for a column are not named like its result."""


def collect_facts(path: Path, recipe: Recipe) -> CardFacts:
    """The card of a run. Errors: core.missing_file where a stage that the card needs has not run."""
    manifest = read_manifest(path)
    examples = to_examples(load_splits(path)["test"])
    tasks = [Examined.read(path, part, examples) for part in parts_of(recipe)]
    return CardFacts(
        name=recipe.name,
        created=str(manifest["created"]),
        run=f"{path.parent.name}/{path.name}",
        goal=_goal(recipe),
        test_rows=sum(len(each.questions) for each in tasks),
        metrics=tuple(_metric_line(name, each) for each in tasks for name in each.part.spec.metrics),
        deciding=tuple(each.part.figure(each.part.spec.metrics[0]) for each in tasks),
        baselines=_baseline_columns(tasks),
        support=_support(tasks),
        training=_training(path, recipe, manifest),
        data=data_facts(path, recipe),
        artefacts=_artefacts(path),
        same_bytes=_same_bytes(path),
        frozen_unchanged=_frozen_unchanged(path),
        resume_certified=_certified(path),
        speeds=_speeds(tasks),
        cost=_cost(manifest, recipe),
        examples=tuple(row for each in tasks for row in _example_rows(each))[:_SHOWN_EXAMPLES],
        examples_allowed=bool(recipe.evaluate.show_examples),
        forgetting=_forgetting(path, recipe),
        not_measured=_not_measured(path, recipe),
        changed_conditions=_changed_conditions(path),
        versions=_texts(manifest.get("versions")),
        hashes={"base": str(manifest["base_sha256"]), "recipe": str(manifest["recipe_sha256"])},
    )


def _not_measured(path: Path, recipe: Recipe) -> tuple[Unmeasured, ...]:
    missing: dict[Unmeasured, bool] = {
        "safety": True,
        "human_evaluation": True,
        "forgetting": not recipe.evaluate.forgetting,
        "resume": _certified(path) is None,
    }
    return tuple(name for name, is_missing in missing.items() if is_missing)


def _forgetting(path: Path, recipe: Recipe) -> tuple[ForgettingLine, ...]:
    lines: list[ForgettingLine] = []
    for place, probe in enumerate(recipe.evaluate.forgetting):
        before, after = (read_margins(margins_path(path, place, label)) for label in ("base", "tuned"))
        if len(before.margins) != len(after.margins):
            raise TunesmithError("core.broken_json", path=str(margins_path(path, place, "tuned")), reason="margins")
        changes = paired_gain(after.margins, before.margins), paired_gain(after.likelihoods, before.likelihoods)
        lines.append(ForgettingLine(probe, len(before.margins), before.accuracy, after.accuracy, *changes))
    return tuple(lines)


@dataclass(frozen=True)
class Examined:
    """One task of a run with its questions and the results of every model."""

    part: Part
    questions: list[Question]
    results: Mapping[str, Result]

    @classmethod
    def read(cls, path: Path, part: Part, examples: Sequence[Example]) -> Examined:
        """The results as they lie in a run. Errors: those of `read_result`."""
        questions, names = part.questions(examples), [*part.baselines, "tuned"]
        results = {name: read_result(path / "evaluate" / part.file(name), questions, part.spec) for name in names}
        return cls(part, questions, results)

    @property
    def tuned(self) -> Result:
        """Of the tuned model."""
        return self.results["tuned"]

    @property
    def bases(self) -> dict[str, Result]:
        """Of what it is held against."""
        return {name: result for name, result in self.results.items() if name != "tuned"}

    @property
    def better_base(self) -> Result:
        """The baseline with the higher value of the first metric."""
        return max(self.bases.values(), key=lambda result: next(iter(result.scores.report.metrics.values())))

    def decisive_scores(self, result: Result) -> tuple[float, ...]:
        """Of every row, by the first metric."""
        return result.scores.rows[self.part.spec.metrics[0]]


def _baseline_columns(tasks: Sequence[Examined]) -> tuple[str, ...]:
    """The words for the columns of the baselines; tasks of different kinds have the second one in common alone."""
    named = dict.fromkeys(each.part.baselines for each in tasks)
    if len(named) > 1:
        return "card_majority", "card_simple_method"
    return tuple(_BASELINE_WORDS.get(name, f"card_{name}") for name in next(iter(named)))


def _goal(recipe: Recipe) -> GoalFacts:
    goal = recipe.goal
    return GoalFacts(
        problem=goal.problem,
        need=tuple(goal.need),
        business_metric=goal.business_metric,
        target_metric=goal.target.metric if goal.target else "",
        target_at_least=goal.target.at_least if goal.target else 0.0,
        support_rate=goal.support_rate,
    )


def _metric_line(name: str, task: Examined) -> MetricLine:
    values = {label: result.scores.report.metrics[name] for label, result in task.results.items()}
    tuned, bases = task.tuned, task.bases
    rows = tuned.scores.rows[name]
    better = max(bases, key=lambda label: values[label])
    first, second = [*(values[label] for label in bases), None][:2]
    return MetricLine(
        metric=task.part.figure(name),
        zero_shot=first or 0.0,
        few_shot=second,
        tuned=values["tuned"],
        tuned_interval=wilson(values["tuned"], len(rows)) if name in SHARES else None,
        gain=gain(name, [tuned], [bases[better]], task.questions),
    )


def _support(tasks: Sequence[Examined]) -> SupportRate:
    """Over the rows of all tasks, each judged by its own first metric."""
    tuned = [score for each in tasks for score in each.decisive_scores(each.tuned)]
    base = [score for each in tasks for score in each.decisive_scores(each.better_base)]
    return support_rate(votes_by_metric(tuned, base))


def _training(path: Path, recipe: Recipe, manifest: Mapping[str, object]) -> TrainingFacts:
    events = read_events(path / METRICS)
    # The last telling of each stage: one that was killed after its last step tells its end twice.
    ends = list({event.values["stage"]: event for event in events if event.kind == "fit_end"}.values())
    end, stage = ends[-1].values, recipe.stages[-1]
    own = [event for event in events if event.values.get("stage", stage.name) == stage.name]
    counts = _last(own, "parameters")
    rows = {name: len(frame) for name, frame in load_tables(path).items()}
    seconds = sum(float(each.values["seconds"] or 0) for each in ends)
    tokens = sum(float(each.values["tokens"] or 0) for each in ends)
    best = end["best_step"]
    useful, kernel, waste = _efficiency(events)
    return TrainingFacts(
        base=recipe.model.base,
        base_licence=str(manifest.get("base_licence") or ""),
        method=method_of(recipe, stage),
        trained_parameters=int(counts["trainable"]),
        total_parameters=int(counts["total"]),
        epochs=stage.train.epochs,
        steps=int(end["steps"] or 0),
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else None,
        best_step=int(best) if best else None,
        base_quantization=rounded_to(manifest.get("base_origin")),
        device=recipe.runtime.device,
        dtype=recipe.model.dtype,
        useful_utilisation=useful,
        kernel_efficiency=kernel,
        waste=waste,
        cut=_cut(own),
        merge=_merge(events),
        losses=curve_from_events(events, int(best) if best else None),
        stages=stages_of(recipe, events, rows),
    )


def rounded_to(origin: object) -> str:
    """The format whose rounding the base's weights went through; empty where they are as they were published."""
    return str(origin.get("quantization", "")) if isinstance(origin, dict) and origin.get("lossy") else ""


def _efficiency(events: list[Event]) -> tuple[float, float, float] | tuple[None, None, None]:
    """U, E and W of all stages together, from the last telling of each; nothing where none was told."""
    told = {event.values["stage"]: event.values for event in events if event.kind == "efficiency"}.values()
    sums = {name: sum(float(each[name] or 0) for each in told) for name in ("needed_flops", "executed_flops")}
    possible = sum(float(each["seconds"] or 0) * float(each["peak_flops"] or 0) for each in told)
    needed, executed = sums["needed_flops"], sums["executed_flops"]
    if not needed or not possible:
        return None, None, None
    return needed / possible, executed / possible, executed / needed


def _cut(events: list[Event]) -> CutFacts | None:
    """How memory cut the steps, where the recipe leaves it to the memory."""
    told = [event.values for event in events if event.kind == "batch" and event.values["reason"] != "validation"]
    rows = [int(each["rows"] or 0) for each in told if each["reason"] == "start"]
    tokens = [int(each["tokens"] or 0) for each in told]
    return CutFacts(rows[-1], min(tokens), max(tokens)) if rows else None


def _merge(events: list[Event]) -> MergeFacts | None:
    """On which base the adapter of a quantised run is merged, as it was told last."""
    told = [event.values for event in events if event.kind == "merge_base"]
    if not told:
        return None
    losses = (float(told[-1][name] or 0) for name in ("loss_original", "loss_dequantized"))
    return MergeFacts(str(told[-1]["chosen"]), str(told[-1]["quantize"]), *losses)


def _last(events: list[Event], kind: str) -> dict[str, float]:
    found = [event for event in events if event.kind == kind]
    return {name: float(value) for name, value in found[-1].values.items() if isinstance(value, int | float)}


def data_facts(path: Path, recipe: Recipe) -> DataFacts:
    """What a run learned from, by its ledger, its stored splits and its manifest. Errors: those of `load_splits`."""
    ledger = Ledger.load(path / "ledger.jsonl")
    frames = load_splits(path)  # which refuses splits that share a prompt or a group
    beside = load_beside(path)
    kept = sorted(row for frame in (*frames.values(), *beside.values()) for row in frame["row"])
    counts: dict[str, int] = {}
    for entry in ledger.entries():
        if entry.parent is None:
            counts[entry.source] = counts.get(entry.source, 0) + 1
    counted = read_manifest(path).get("licences")
    by_licence = counted if isinstance(counted, dict) else {}  # runs of older releases have none
    specs = [*recipe.data.sources, *recipe.data.validation_sources, *recipe.data.test_sources]
    specs += [source for sources in recipe.sources_beside.values() for source in sources]
    licences = {spec.title: spec.licence for spec in specs}
    return DataFacts(
        sources=tuple(
            SourceFacts(name, stated, licence, commercial_use(licence) != "forbidden")
            for name, rows in counts.items()
            for licence, stated in (by_licence.get(name) or {licences.get(name, ""): rows}).items()
        ),
        fates=ledger.totals(),
        splits={split: len(frames[split]) for split in SPLITS},
        ledger_balanced=kept == ledger.kept_rows(),
        leaks=0,
    )


def _artefacts(path: Path) -> tuple[ArtefactFacts, ...]:
    found: list[ArtefactFacts] = []
    for file in sorted((path / "ship").glob("*/parity.json")):
        size = sum(each.stat().st_size for each in file.parent.rglob("*") if each.is_file())
        found.append(ArtefactFacts(file.parent.name, size, tuple(_checks(read_json(file)))))
    return tuple(found)


def _checks(parity: Mapping[str, object]) -> list[ParityCheck]:
    """The checks that have a limit; those without one only inform."""
    stated = parity["checks"]
    checks: list[ParityCheck] = []
    for check in stated if isinstance(stated, list) else []:
        if check["limit"] is None:
            continue
        sign = "≥" if check["kind"] == "at_least" else "≤"
        checks.append(
            ParityCheck(
                _check_name(str(check["name"])),
                f"{check['value']:.4g}",
                f"{sign} {check['limit']:.4g}",
                bool(check["ok"]),
            )
        )
    return checks


def _check_name(name: str) -> Words:
    for suffix in ("metric_difference", "metric_difference_near_ties_apart"):
        metric = name.removesuffix(suffix.removeprefix("metric"))
        if metric != name:
            return words_of(f"parity_{suffix}", metric=metric_words(metric))
    return words_of(f"parity_{name}")


def _same_bytes(path: Path) -> bool | None:
    """Token ids of the artefacts equal those of training and evaluation, in every artefact that was checked."""
    seen: list[bool] = []
    for file in (path / "ship").glob("*/parity.json"):
        checks = read_json(file)["checks"]
        seen += [bool(check["ok"]) for check in (checks if isinstance(checks, list) else []) if "ids" in check["name"]]
    return all(seen) if seen else None


def _frozen_unchanged(path: Path) -> bool | None:
    found = [event.values["unchanged"] for event in read_events(path / METRICS, "frozen")]
    return bool(all(found)) if found else None


def _changed_conditions(path: Path) -> tuple[str, ...]:
    """What was done under other versions, on another processor or with other threads than the run began with."""
    alarms = [event.values for event in read_events(path / METRICS, "alarm")]
    stages = [f"{each['stage']}: {each['differences']}" for each in alarms if each["code"] == MACHINE_CHANGED]
    resumes = [f"{each['checkpoint']}: {each['differences']}" for each in alarms if each["code"] == MACHINE_ACCEPTED]
    return tuple(dict.fromkeys([*resumes, *stages]))


def _certified(path: Path) -> bool | None:
    file = path / CERTIFICATE
    return bool(read_json(file)["equal"]) if file.exists() else None


def _speeds(tasks: Sequence[Examined]) -> tuple[SpeedLine, ...]:
    names = {"base": "model_base", "tuned": "model_tuned"}
    alone = {
        label: [timing for each in tasks if label in each.results for timing in each.results[label].answers.alone]
        for label in names
    }
    return tuple(SpeedLine(words_of(code), speed(alone[label])) for label, code in names.items() if alone[label])


def _cost(manifest: Mapping[str, object], recipe: Recipe) -> Cost:
    stages = manifest["stages"]
    seconds = {
        name: float(facts["seconds"])
        for name, facts in (stages.items() if isinstance(stages, dict) else ())
        if "seconds" in facts
    }
    return cost(seconds, recipe.evaluate.machine_cost_per_hour)


def _example_rows(task: Examined) -> tuple[ExampleRow, ...]:
    """A few rows, those first where the two models differ."""
    questions, base, tuned = task.questions, task.better_base, task.tuned
    order = sorted(range(len(questions)), key=lambda place: base.answers.texts[place] == tuned.answers.texts[place])
    return tuple(
        ExampleRow(
            questions[place].messages[-1].content,
            questions[place].wanted,
            base.answers.texts[place],
            tuned.answers.texts[place],
        )
        for place in order[:_SHOWN_EXAMPLES]
    )


def _texts(values: object) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()} if isinstance(values, dict) else {}
