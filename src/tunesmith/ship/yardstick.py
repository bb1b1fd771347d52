"""What the parity gate asks: conversations whose ids must agree, and the task's own questions."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.core.types import Example, Message
from tunesmith.evaluate.answers import Question, Result
from tunesmith.evaluate.metrics import score
from tunesmith.recipe.specs.evaluate import EvaluateSpec
from tunesmith.ship.parity import TaskMetric
from tunesmith.ship.parity_chats import FIXED_CHATS

PARITY_QUESTIONS = 200
"""Test questions that llama.cpp answers in the gate: enough that three answers in one direction leave its limit."""


def parity_chats(rows: Sequence[Example], wanted: int) -> list[list[Message]]:
    """The fixed bilingual chats and then the run's own, `wanted` together; fewer where the run has fewer."""
    chats = [list(example.messages) for example in rows if example.messages and not example.tools]
    return [*FIXED_CHATS, *chats][:wanted]


def parity_metric(spec: EvaluateSpec, questions: Sequence[Question], tuned: Result) -> TaskMetric | None:
    """The first metric of the recipe on the first questions without tools; None where every question has tools."""
    asked = [place for place, each in enumerate(questions) if not each.tools][:PARITY_QUESTIONS]
    if not asked:
        return None
    name = spec.metrics[0]
    wanted = [questions[place].wanted for place in asked]

    def points(texts: Sequence[str]) -> float:
        return 100 * score([name], texts, wanted).report.metrics[name]

    return TaskMetric(
        name,
        [questions[place].messages for place in asked],
        [tuned.answers.texts[place] for place in asked],
        points,
        spec.max_new_tokens,
    )
