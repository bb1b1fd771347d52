"""Ask a model every test question, and keep what it said and how long it took."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import read_json, write_json
from tunesmith.core.seed import derive_seed
from tunesmith.core.types import Example, Message
from tunesmith.evaluate.metrics import Scores, score
from tunesmith.evaluate.speed import Timing
from tunesmith.models.generate import Completion, Progress, generate
from tunesmith.models.sampling import GenerateSettings
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.evaluate import EvaluateSpec
from tunesmith.tasks.chat import ChatTask, question_and_answer, with_examples
from tunesmith.tasks.text_class import in_words

TIMED_ALONE = 8
"""Questions asked one at a time for the latency: what a single user feels, not what a batch shares."""


@dataclass(frozen=True)
class Question:
    """What is asked, of which row, and what a right answer is. `tokens` where a class of each is asked for."""

    row: int
    messages: tuple[Message, ...]
    tools: str
    wanted: str
    tokens: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The last thing said: of a task with classes the text, or its tokens with blanks between."""
        return self.messages[-1].content


@dataclass(frozen=True)
class Answers:
    """Answers in the order of the questions, the seconds all of them took together, and single timings."""

    texts: tuple[str, ...]
    tokens: int
    wall_seconds: float
    alone: tuple[Timing, ...]


def questions_of(examples: Sequence[Example], *, several: bool = False) -> list[Question]:
    """What every row asks: the turns before the last assistant's, which is the answer; or the classes of its text or
    tokens, with `several` a list of them."""
    return [_question(each, several) for each in examples]


def _question(example: Example, several: bool) -> Question:
    if example.kind == "text_class":
        wanted = in_words(example.labels) if several else example.labels[0]
        return Question(example.row, (Message("user", example.text),), "", wanted)
    if example.kind == "token_class":
        asked = Message("user", " ".join(example.tokens))
        return Question(example.row, (asked,), "", " ".join(example.labels), example.tokens)
    messages, wanted = question_and_answer(example)
    return Question(example.row, messages, example.tools, wanted)


BASELINES_OF_CLASSES = {"text_class": ("majority", "naive_bayes"), "token_class": ("majority", "dictionary")}
"""What answers where the untouched base cannot: it has no head."""


def baseline_names(recipe: Recipe) -> tuple[str, ...]:
    """What the tuned model is held against, the plainest first: the names of their results in a run."""
    if recipe.data.task in BASELINES_OF_CLASSES:
        return BASELINES_OF_CLASSES[recipe.data.task]
    return ("base", "base_with_examples") if recipe.evaluate.examples else ("base",)


def drawn_questions(
    examples: Sequence[Example], most: int | None, seed: int, *, several: bool = False
) -> list[Question]:
    """The questions of all rows, or of `most` rows drawn with a seed, in the order of the rows."""
    questions = questions_of(examples, several=several)
    if most is None or most >= len(questions):
        return questions
    draw = random.Random(derive_seed(seed, "questions"))
    return [questions[place] for place in sorted(draw.sample(range(len(questions)), most))]


def ask_all(
    model: PreTrainedModel,
    task: ChatTask,
    questions: Sequence[Question],
    spec: EvaluateSpec,
    emitter: Emitter,
    *,
    label: str,
    shown: Sequence[Example] = (),
    timed: int = TIMED_ALONE,
) -> Answers:
    """Greedy answers to all questions, in batches, with progress events.

    Args:
        label: names the model in progress events.
        shown: solved examples put before every question.
        timed: questions asked again one at a time, for the latency.
    """
    prompts = [task.prompt(with_examples(each.messages, shown), each.tools) for each in questions]
    settings = GenerateSettings(spec.max_new_tokens, end_token_ids=tuple(sorted(task.end_token_ids)))
    done = 0

    def count(progress: Progress) -> None:
        nonlocal done
        if progress.completion is not None:
            done += 1
            emitter.emit("progress", what=label, done=done, total=len(prompts))

    started = time.perf_counter()
    completions = generate(model, task.tokenizer, prompts, settings, on_token=count, batch_size=spec.batch_size)
    wall = time.perf_counter() - started
    alone = tuple(_time_alone(model, task, prompt, settings) for prompt in prompts[:timed])
    return Answers(tuple(each.text for each in completions), _tokens(completions), wall, alone)


def _time_alone(model: PreTrainedModel, task: ChatTask, prompt: list[int], settings: GenerateSettings) -> Timing:
    started = time.perf_counter()
    completions = generate(model, task.tokenizer, [prompt], settings)
    return Timing(time.perf_counter() - started, _tokens(completions))


def _tokens(completions: Sequence[Completion]) -> int:
    return sum(len(each.token_ids) for each in completions)


@dataclass(frozen=True)
class Result:
    """Answers with their scores."""

    answers: Answers
    scores: Scores


def score_answers(answers: Answers, questions: Sequence[Question], spec: EvaluateSpec) -> Result:
    """Score with the recipe's metrics. Errors: those of `score`."""
    return Result(answers, score(spec.metrics, answers.texts, [each.wanted for each in questions]))


def tell_by_source(
    result: Result, questions: Sequence[Question], examples: Sequence[Example], label: str, emitter: Emitter
) -> None:
    """The mean scores of each source's rows as events (`result_of_source`), where the questions are of several."""
    sources = {example.row: example.origin.source for example in examples}
    places: dict[str, list[int]] = {}
    for place, question in enumerate(questions):
        places.setdefault(sources[question.row], []).append(place)
    for source, own in places.items() if len(places) > 1 else ():
        means = {name: sum(rows[at] for at in own) / len(own) for name, rows in result.scores.rows.items()}
        emitter.emit("result_of_source", model=label, source=source, rows=len(own), **means)


def write_result(path: Path, result: Result, questions: Sequence[Question]) -> None:
    """Keep a result as JSON: values, and every row with its answer and scores."""
    rows = [
        {
            "row": question.row,
            "wanted": question.wanted,
            "answer": text,
            "scores": {name: scores[place] for name, scores in result.scores.rows.items()},
        }
        for place, (question, text) in enumerate(zip(questions, result.answers.texts, strict=True))
    ]
    write_json(
        path,
        {
            "metrics": dict(result.scores.report.metrics),
            "tokens": result.answers.tokens,
            "wall_seconds": result.answers.wall_seconds,
            "alone": [[each.seconds, each.tokens] for each in result.answers.alone],
            "rows": rows,
        },
    )


def read_result(path: Path, questions: Sequence[Question], spec: EvaluateSpec) -> Result:
    """Read a result back; scores are computed again from the answers. Errors: those of `read_json` and `score`."""
    stored = read_json(path)
    rows, alone = stored.get("rows"), stored.get("alone")
    if not isinstance(rows, list) or not isinstance(alone, list):
        raise TunesmithError("core.broken_json", path=str(path), reason="no rows")
    answers = Answers(
        tuple(str(row["answer"]) for row in rows),
        int(str(stored["tokens"])),
        float(str(stored["wall_seconds"])),
        tuple(Timing(float(seconds), int(tokens)) for seconds, tokens in alone),
    )
    return score_answers(answers, questions, spec)
