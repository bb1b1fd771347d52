"""What cleaning the rows has gained: the same recipe trained on raw and on cleaned rows, asked the same questions."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import read_events
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import METRICS
from tunesmith.data import prepare as data_room
from tunesmith.data.raw import write_raw
from tunesmith.evaluate.answers import Question, Result, read_result
from tunesmith.evaluate.gain import gain
from tunesmith.evaluate.intervals import Interval
from tunesmith.evaluate.parts import parts_of
from tunesmith.lifecycle import evaluate, prepare_data, test_questions, train
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.work import Work

SUFFIX = "-raw"
"""What the name of the runs on raw rows ends with."""


@dataclass(frozen=True)
class Side:
    """One training: its run, how much it learned from, and its answers by the task of several."""

    run: Path
    rows: int
    steps: Mapping[str, int]
    """Optimizer steps by stage."""
    results: Mapping[str, Result]
    questions: Mapping[str, Sequence[Question]]


@dataclass(frozen=True)
class MetricGain:
    """A metric on both sides, means over the seeds; no interval where a corpus figure has no figures of its rows."""

    metric: str
    raw: float
    cleaned: float
    gained: Interval | None


def trained(work: Work) -> Side:
    """Train and ask, as far as that is not done yet."""
    for stage in (prepare_data, train, evaluate):
        stage(work)
    ends = {e.values["stage"]: e.values for e in read_events(work.path / METRICS) if e.kind == "fit_end"}
    steps = {str(stage): int(str(values["steps"])) for stage, values in ends.items()}
    questions = {part.name: test_questions(work, part) for part in parts_of(work.recipe)}
    results = {
        part.name: read_result(work.path / "evaluate" / part.file("tuned"), questions[part.name], part.spec)
        for part in parts_of(work.recipe)
    }
    return Side(work.path, len(work.examples("train")), steps, results, questions)


def raw_overrides(work: Work, side: Side, folder: Path) -> list[str]:
    """What makes a recipe learn from the raw rows of a cleaned run, in as many steps.

    The rows are written into `folder`, once. Errors: those of `write_raw`; data.nothing_cleaned.
    """
    ledger = Ledger.load(work.path / "ledger.jsonl")
    frames = data_room.load_splits(work.path)
    data = write_raw(work.recipe.data, work.recipe_folder, ledger, frames, folder)
    return [f"name={work.recipe.name}{SUFFIX}", *_data(data), *_steps(work.recipe, side)]


def _data(data: DataSpec) -> list[str]:
    changed = ("sources", "validation_sources", "test_sources", "clean", "split", "labels")
    values = data.model_dump(mode="json", include=set(changed))
    return [f"data.{name}={json.dumps(values[name], ensure_ascii=False)}" for name in changed]


def _steps(recipe: Recipe, side: Side) -> list[str]:
    """As many steps of every stage that learns the run's rows: more rows shall not mean more training."""
    return [
        f"stages.{place}.train.max_steps={side.steps[stage.name]}"
        for place, stage in enumerate(recipe.stages)
        if stage.data is None
    ]


def compare(recipe: Recipe, raw: Sequence[Side], cleaned: Sequence[Side]) -> list[MetricGain]:
    """Every metric of every task over both sides' seeds. Errors: data.other_questions."""
    found = []
    for part in parts_of(recipe):
        asked = cleaned[0].questions[part.name]
        for side in (*raw, *cleaned):
            if _asked(side, part.name) != _asked(cleaned[0], part.name):
                raise TunesmithError("data.other_questions", run=str(side.run))
        before, after = ([side.results[part.name] for side in sides] for sides in (raw, cleaned))
        for name in part.spec.metrics:
            gained = gain(name, after, before, asked)
            found.append(MetricGain(part.figure(name), _mean(name, before), _mean(name, after), gained))
    return found


def _asked(side: Side, task: str) -> list[Question]:
    """The questions without the numbers that their rows have in each run."""
    return [replace(each, row=0) for each in side.questions[task]]


def _mean(name: str, results: Sequence[Result]) -> float:
    return math.fsum(each.scores.report.metrics[name] for each in results) / len(results)
