"""What a stage is judged by while it trains: the loss of all validation rows, and the task's metric on some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from tunesmith.core.events import Emitter
from tunesmith.core.types import Example
from tunesmith.evaluate.answers import questions_of, score_answers
from tunesmith.evaluate.examine import examine
from tunesmith.evaluate.parts import mean_by_metric, part_of
from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy
from tunesmith.objectives.base import Objective
from tunesmith.recipe.specs.evaluate import EvaluateSpec
from tunesmith.recipe.specs.train import LOSSES, EarlyStoppingSpec
from tunesmith.runtime.base import Runtime
from tunesmith.tasks.base import Task
from tunesmith.tasks.classes import ClassTask
from tunesmith.tasks.label_sets import rows_of
from tunesmith.tasks.side_by_side import SideBySideTask
from tunesmith.train.passes import Passes

TaskMetric = Callable[[Policy], Mapping[str, float]]
"""Answers some validation rows and gives the task's metrics, or nothing where only the loss decides."""


def no_task_metric(policy: Policy) -> Mapping[str, float]:
    """The null object of `TaskMetric`."""
    return {}


def answered_metric(
    task: Task, examples: Sequence[Example], stopping: EarlyStoppingSpec, spec: EvaluateSpec, emitter: Emitter
) -> TaskMetric:
    """Answers the first `stopping.rows` validation rows with the policy, where a metric of the task decides.

    Of several tasks with heads every one is measured on as many rows of its own; what decides is the mean over those
    that have the metric.
    """
    if isinstance(task, SideBySideTask):
        return _of_every_task(task, examples, stopping, spec, emitter)
    if stopping.metric in LOSSES:
        return no_task_metric
    several = isinstance(task, ClassTask) and task.head.several
    questions = questions_of(examples[: stopping.rows], several=several)
    chosen = spec.model_copy(update={"metrics": [stopping.metric]})

    def measure(policy: Policy) -> Mapping[str, float]:
        answers = examine(policy, task, questions, chosen, emitter, label="validation", timed=0)
        return score_answers(answers, questions, chosen).scores.report.metrics

    return measure


def _of_every_task(
    task: SideBySideTask, examples: Sequence[Example], stopping: EarlyStoppingSpec, spec: EvaluateSpec, emitter: Emitter
) -> TaskMetric:
    parts = [part_of(name, rows_of(each.head), spec, 0) for name, each in task.parts.items()]
    asked = {each.name: questions_of(each.rows(examples)[: stopping.rows], several=each.several) for each in parts}

    def measure(policy: Policy) -> Mapping[str, float]:
        found: dict[str, dict[str, float]] = {}
        for part in parts:
            own, questions = part.of(task), asked[part.name]
            answers = examine(part.seen_by(policy), own, questions, part.spec, emitter, label="validation", timed=0)
            found[part.name] = dict(score_answers(answers, questions, part.spec).scores.report.metrics)
        named = {name: value for part in parts for name, value in part.named(found[part.name]).items()}
        return {**named, **mean_by_metric(list(found.values()))}

    return measure


class Validator:
    """Calls the objective on all validation rows, without gradients, and the task metric on the policy."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        runtime: Runtime,
        rows: Sequence[Features],
        passes: Passes,
        task_metric: TaskMetric,
    ) -> None:
        self._policy = policy
        self._objective = objective
        self._runtime = runtime
        self._rows = sorted(rows, key=lambda row: len(row.token_ids))[runtime.rank :: runtime.size]
        self._passes = passes
        self._task_metric = task_metric

    def __call__(self) -> dict[str, float]:
        """Mean of every term over all rows of all ranks, their sum as `loss`, and the task's metrics.

        A term of which no row has an item, such as that of a task with old rows alone, has no mean.
        """
        training = self._policy.training
        self._policy.eval()
        sums: dict[str, float] = {}
        counts: dict[str, float] = {}
        with torch.inference_mode():
            for terms, items in self._passes.each(self._rows, self._look):
                for name in terms:
                    sums[name] = sums.get(name, 0.0) + terms[name]
                    counts[name] = counts.get(name, 0.0) + items[name]
        self._policy.train(training)
        names = self._seen_by_any_rank(sums)
        totals = self._runtime.sum([each.get(name, 0.0) for each in (sums, counts) for name in names])
        pairs = zip(names, totals, totals[len(names) :], strict=False)
        means = {name: total / count for name, total, count in pairs if count}
        return {"loss": sum(means.values()) if means else float("nan"), **means, **self._task_metric(self._policy)}

    def _seen_by_any_rank(self, names: Iterable[str]) -> list[str]:
        """The terms, in one order for all ranks: one without rows has seen none."""
        own = "".join(f"{name}\n" for name in names).encode()
        held = self._runtime.gather(torch.tensor(list(own), dtype=torch.uint8, device=self._runtime.device))
        return list(dict.fromkeys(bytes(held.tolist()).decode().splitlines()))

    def _look(self, batch: Packed) -> tuple[dict[str, float], dict[str, float]]:
        """Sum of each term over a batch, and its items."""
        terms = self._objective.loss(self._policy, batch.to(self._runtime.device))
        return {name: float(term) for name, term in terms.items()}, self._objective.count(batch)
