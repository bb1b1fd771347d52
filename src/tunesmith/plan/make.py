"""From a prepared run to its plan: the facts are gathered here, the rooms beside this file judge them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import write_atomic, write_json
from tunesmith.core.run import Run
from tunesmith.core.types import Example, SplitName
from tunesmith.messages import language
from tunesmith.models.catalog import KnownModel
from tunesmith.plan.add_ons import held_bytes, measured_tokens, reads_ahead, rows_of_an_epoch, validated_tokens
from tunesmith.plan.advise import Situation
from tunesmith.plan.cautions import BaseFacts, RowFacts, chinese_share
from tunesmith.plan.chain import together
from tunesmith.plan.forecast import Forecast, Machine, Workload, load_records, with_room, workload
from tunesmith.plan.readiness import ReadinessFacts
from tunesmith.plan.report import Plan, as_markdown, make_plan, plan_json
from tunesmith.plan.sizes import ModelSize, size_from_config, trained_parameters
from tunesmith.recipe.chain import data_of
from tunesmith.recipe.places import local_path
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.objectives import MultitaskSpec

PLAN_JSON, PLAN_PAGE = "plan.json", "plan.md"
_SHARED_AT_LEAST = 16
"""Shortest common beginning that packed rows share; a test keeps it equal to the packing's own number."""
_TEXTS_LOOKED_AT = 500


class Row(Protocol):
    """One encoded row: its number in the ledger, its tokens, and the loss weight of each."""

    @property
    def row(self) -> int:
        """Number in the ledger."""

    @property
    def token_ids(self) -> Sequence[int]:
        """Token ids."""

    @property
    def weights(self) -> Sequence[float]:
        """Loss weights, 0 where a token is only read."""

    @property
    def learned(self) -> int:
        """Positions that carry loss."""


@dataclass(frozen=True)
class Prepared:
    """What the data stage left: encoded rows by split, training rows as text, and rows by fate (the ledger's sums).

    `folder` is where the paths of the recipe start; `old` are encoded rows of older tasks, by what the stage wants with
    them; `classes` is how many labels the rows have, 0 where they have none; `teacher` is the configuration of one that
    stands in memory.
    """

    rows: Mapping[SplitName, Sequence[Row]]
    examples: Sequence[Example]
    fates: Mapping[str, int]
    folder: Path
    old: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    classes: int = 0
    teacher: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Base:
    """The base: its config.json, its licence, what the catalogue knows, and the format its weights were rounded to."""

    config: Mapping[str, object]
    licence: str
    known: KnownModel | None = None
    rounded_to: str = ""


@dataclass(frozen=True)
class Grounds:
    """What the forecast of a stage is reckoned from; kept in plan.json so that training can say how good it was."""

    size: ModelSize
    load: Workload
    machine: Machine


def plan_run(
    recipe: Recipe, prepared: Sequence[Prepared], base: Base, machine: Machine
) -> tuple[Plan, dict[str, Grounds]]:
    """The plan of a run, and what the forecast of each stage stands on. Errors: plan.unknown_size.

    Args:
        prepared: what the data stage left, of each training stage.
    """
    made = [_plan_stage(recipe, *each, base, machine) for each in zip(recipe.stages, prepared, strict=True)]
    names = [stage.name for stage in recipe.stages]
    return together(names, [plan for plan, _ in made]), dict(zip(names, (grounds for _, grounds in made), strict=True))


def _plan_stage(
    recipe: Recipe, stage: StageSpec, prepared: Prepared, base: Base, machine: Machine
) -> tuple[Plan, Grounds]:
    train_rows, validation_rows = prepared.rows["train"], prepared.rows["validation"]
    data = data_of(recipe, stage)
    has_vectors = isinstance(stage.objective, MultitaskSpec) and stage.objective.task_embeddings
    vectors = len(data.tasks or ()) if has_vectors else 0
    of_tokens = data.task == "token_class"
    size = size_from_config(base.config, recipe.model.quantize, prepared.classes, of_tokens, vectors)
    size = size.with_dropout() if recipe.model.dropout else size
    teacher = size_from_config(prepared.teacher) if prepared.teacher is not None else None
    lengths = [len(row.token_ids) for row in train_rows]
    tasks = {example.row: example.origin.source for example in prepared.examples}
    epoch_rows = rows_of_an_epoch(stage, train_rows, prepared.old, tasks)
    loss_tokens = sum(row.learned for row in epoch_rows)
    shared = common_beginning(epoch_rows)
    epoch_lengths = [len(row.token_ids) for row in epoch_rows]
    validated = validated_tokens(stage, validation_rows, prepared.old)
    load = workload(epoch_lengths, loss_tokens, validated, stage.train, shared, machine.device)
    held = held_bytes(size, stage, teacher, machine.dtype)
    load = replace(load, held_bytes=held, measured_tokens=measured_tokens(stage, train_rows))
    load = with_room(load, size, stage.adapt, stage.train, machine, max(epoch_lengths, default=1))
    load = replace(load, reads_ahead=reads_ahead(stage, load.rows, load.tokens, load.tokens_at_once))
    texts = [text for each in prepared.examples[:_TEXTS_LOOKED_AT] for text in _texts(each)]
    facts = RowFacts(len(lengths), max(lengths, default=0), _count(prepared.fates, "truncated"), chinese_share(texts))
    known = base.known
    situation = Situation(
        rows=len(lengths),
        parameters=size.parameters,
        trained_parameters=trained_parameters(size, stage.adapt),
        memory_bytes=machine.memory_bytes,
        gpus=1 if machine.device == "cuda" else 0,
        need=tuple(recipe.goal.need),
        task="classify" if prepared.classes else "generate",
    )
    plan = make_plan(
        _readiness_facts(recipe, stage, prepared, base),
        situation,
        size,
        stage.adapt,
        stage.train,
        load,
        machine,
        records=load_records(),
        rows=facts,
        base=BaseFacts(known.languages if known else (), base.rounded_to),
    )
    return plan, Grounds(size, load, machine)


def _texts(example: Example) -> list[str]:
    return [*(turn.content for turn in example.messages), example.text, " ".join(example.tokens)]


def _readiness_facts(recipe: Recipe, stage: StageSpec, prepared: Prepared, base: Base) -> ReadinessFacts:
    data = recipe.data
    sources = [*data.sources, *data.validation_sources, *data.test_sources]
    sources += [source for each in recipe.sources_beside.values() for source in each]
    read = sum(prepared.fates.values())
    return ReadinessFacts(
        goal=recipe.goal,
        method=stage.adapt.kind,
        train_rows=len(prepared.rows["train"]),
        validation_rows=len(prepared.rows["validation"]),
        test_rows=len(prepared.rows["test"]),
        base_licence=base.licence,
        data_licences=tuple(source.licence for source in sources),
        duplicate_share=_count(prepared.fates, "merged") / read if read else None,
        sources_there=all(local_path(each, prepared.folder).exists() for each in sources),
    )


def _count(fates: Mapping[str, int], fate: str) -> int:
    """Rows of a fate, whatever the reason."""
    return sum(rows for label, rows in fates.items() if label.partition(":")[0] == fate)


def common_beginning(rows: Sequence[Row]) -> int:
    """Tokens with which all rows begin and of which none is learned, as packed rows share them; 0 where too few."""
    if len(rows) < 2:
        return 0
    ordered = sorted(tuple(row.token_ids) for row in rows)
    first, last = ordered[0], ordered[-1]
    # What the first and the last in order have in common, all between them have too.
    pairs = enumerate(zip(first, last, strict=False))
    common = next((place for place, (left, right) in pairs if left != right), min(len(first), len(last)))
    # The token before the first learned one predicts it, so a row keeps it for itself.
    common = min(common, *(_first_learned(row) - 1 for row in rows))
    return common if common >= _SHARED_AT_LEAST else 0


def _first_learned(row: Row) -> int:
    return next((place for place, weight in enumerate(row.weights) if weight), len(row.weights))


def keep_plan(run: Run, plan: Plan, grounds: Mapping[str, Grounds]) -> None:
    """Write plan.json and plan.md into the run, durably. Errors: those of `write_atomic`."""
    page, values = run.path / PLAN_PAGE, run.path / PLAN_JSON
    with run.replacing(values, page):
        write_json(values, {**plan_json(plan), "grounds": {name: asdict(each) for name, each in grounds.items()}})
        write_atomic(page, as_markdown(plan))


def announce(plan: Plan, emitter: Emitter) -> None:
    """Say the plan as events: `readiness`, `advice` (one each) and `forecast`."""
    findings = [each.level for each in plan.readiness.findings]
    emitter.emit(
        "readiness",
        state=plan.readiness.state,
        risks=findings.count("risky"),
        advice=len(plan.advice) + len(plan.warnings),
    )
    for each in (*plan.warnings, *plan.advice):
        emitter.emit("advice", code=each.rule)
    announce_forecast(plan.forecast, emitter)


def announce_forecast(made: Forecast, emitter: Emitter) -> None:
    """Say a forecast as an event; times in seconds, memory in MiB."""
    emitter.emit(
        "forecast",
        basis=made.basis,
        records=made.records,
        seconds=round(made.seconds.value, 1),
        low=round(made.seconds.low, 1),
        high=round(made.seconds.high, 1),
        memory_mb=round(made.peak_bytes.value / 2**20),
        money=None if made.money is None else round(made.money, 4),
    )


def refuse_blocked(plan: Plan, path: Path) -> None:
    """Stop a run that something stands against. Errors: plan.blocked."""
    if plan.readiness.state == "blocked":
        found = [each.words()[language()] for each in plan.readiness.findings if each.level == "blocked"]
        raise TunesmithError("plan.blocked", reasons=" ".join(found), path=str(path / PLAN_PAGE))
