"""What of a run is asked and scored together: all its test rows, or those of one of several tasks with heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tunesmith.core.types import Example
from tunesmith.evaluate.answers import BASELINES_OF_CLASSES, Question, baseline_names, drawn_questions
from tunesmith.models.policy import Policy
from tunesmith.models.side_by_side import SeveralHeads
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.data import ClassRows
from tunesmith.recipe.specs.evaluate import EvaluateSpec
from tunesmith.tasks.base import Task
from tunesmith.tasks.label_sets import ONLY, of_task
from tunesmith.tasks.side_by_side import SideBySideTask


@dataclass(frozen=True)
class Part:
    """One task of a run. `spec` has its own metrics, the decisive one first.

    Args:
        name: of the task; empty where it is the only one.
        several: whether a text may have several labels.
        baselines: what its model is held against, the plainest first.
        seed: draws its questions.
    """

    name: str
    spec: EvaluateSpec
    several: bool
    baselines: tuple[str, ...]
    seed: int

    def file(self, label: str) -> str:
        """The name of a result's file, such as tuned.json or tuned-intents.json."""
        return f"{label}-{self.name}.json" if self.name else f"{label}.json"

    def figure(self, metric: str) -> str:
        """The name of a metric among those of all tasks, such as accuracy or intents/accuracy."""
        return f"{self.name}/{metric}" if self.name else metric

    def named(self, values: Mapping[str, float]) -> dict[str, float]:
        """Figures under their names among those of all tasks."""
        return {self.figure(metric): value for metric, value in values.items()}

    def rows(self, examples: Iterable[Example]) -> list[Example]:
        """Its rows."""
        return of_task(self.name, examples)

    def questions(self, examples: Iterable[Example]) -> list[Question]:
        """What it is asked: all its rows, or `max_rows` of them drawn with the seed."""
        return drawn_questions(self.rows(examples), self.spec.max_rows, self.seed, several=self.several)

    def of(self, task: Task) -> Task:
        """Its own task."""
        return task.parts[self.name] if isinstance(task, SideBySideTask) else task

    def seen_by(self, policy: Policy) -> Policy:
        """The model with its head alone."""
        return policy.alone(self.name) if isinstance(policy, SeveralHeads) else policy


def parts_of(recipe: Recipe) -> tuple[Part, ...]:
    """The tasks of a run, in the order of the recipe."""
    data, spec, seed = recipe.data, recipe.evaluate, recipe.data.split.seed
    if data.tasks is None:
        return (Part(ONLY, spec, data.multi_label, baseline_names(recipe), seed),)
    return tuple(part_of(name, rows, spec, seed) for name, rows in data.tasks.items())


def part_of(name: str, rows: ClassRows, spec: EvaluateSpec, seed: int) -> Part:
    """One of several tasks."""
    own = spec.model_copy(update={"metrics": spec.metrics_of(rows)})
    form = "token_class" if rows == "token_class" else "text_class"
    return Part(name, own, rows == "multi_label", BASELINES_OF_CLASSES[form], seed)


def mean_by_metric(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each metric the mean over the tasks that have it."""
    names = dict.fromkeys(name for each in figures for name in each)
    values = {name: [each[name] for each in figures if name in each] for name in names}
    return {name: sum(each) / len(each) for name, each in values.items()}
