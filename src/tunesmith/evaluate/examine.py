"""Every question to a model, whatever kind of answer its task gives."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.events import Emitter
from tunesmith.core.types import Example
from tunesmith.evaluate.answers import TIMED_ALONE, Answers, Question, ask_all
from tunesmith.evaluate.labels import label_all
from tunesmith.models.heads import ClassPolicy
from tunesmith.models.policy import Policy
from tunesmith.recipe.specs.evaluate import EvaluateSpec
from tunesmith.tasks.base import Task
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.classes import ClassTask


def examine(
    policy: Policy,
    task: Task,
    questions: Sequence[Question],
    spec: EvaluateSpec,
    emitter: Emitter,
    *,
    label: str,
    shown: Sequence[Example] = (),
    timed: int = TIMED_ALONE,
) -> Answers:
    """Words from a model that writes, labels from one with a head. Arguments: see `ask_all` and `label_all`."""
    if isinstance(policy, ClassPolicy) and isinstance(task, ClassTask):
        return label_all(policy, task, questions, emitter, label=label, timed=timed)
    if not isinstance(task, ChatTask):
        raise TypeError(f"{type(task).__name__} needs a policy with a head")
    with policy.answering() as model:
        return ask_all(model, task, questions, spec, emitter, label=label, shown=shown, timed=timed)
