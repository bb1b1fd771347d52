"""Answers of models with a head, and of the simplest things that answer without one: the baselines of such tasks.

majority      the most frequent label for every text, `O` for every token
naive_bayes   multinomial naive Bayes over words and pairs of words (of characters where a script has no blanks),
              as scikit-learn has it: what an afternoon without any model gives
dictionary    every run of tokens that was an entity in the training rows is one again, the longest first
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.preprocessing import MultiLabelBinarizer
from torch import Tensor

from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.types import Example
from tunesmith.evaluate.answers import TIMED_ALONE, Answers, Question
from tunesmith.evaluate.entities import entities_of
from tunesmith.evaluate.metrics import tokens_of
from tunesmith.evaluate.speed import Timing
from tunesmith.models.heads import ClassPolicy
from tunesmith.tasks.classes import OUTSIDE, ClassTask
from tunesmith.tasks.text_class import in_words

_TOKENS_AT_ONCE = 4096
"""More at once gains nothing on a CPU, and their scores stay small."""
_LONGEST_ENTITY = 16
"""Tokens of the longest entity that the dictionary looks up."""


def label_all(
    policy: ClassPolicy, task: ClassTask, questions: Sequence[Question], emitter: Emitter, *, label: str,
    timed: int = TIMED_ALONE,
) -> Answers:  # fmt: skip
    """The model's labels of all questions, in batches of like length, with progress events.

    Args:
        label: names the model in progress events.
        timed: questions asked again one at a time, for the latency.
    """
    training = policy.training
    policy.eval()
    started = time.perf_counter()
    texts = [""] * len(questions)
    done = 0
    for places in _batches(task, questions):
        for place, text in zip(places, _answers(policy, task, [questions[each] for each in places]), strict=True):
            texts[place] = text
        done += len(places)
        emitter.emit("progress", what=label, done=done, total=len(questions))
    wall = time.perf_counter() - started
    tokens = sum(len(task.read(each).token_ids) for each in questions)
    alone = tuple(_time_alone(policy, task, each) for each in questions[:timed])
    policy.train(training)
    return Answers(tuple(texts), tokens, wall, alone)


def _batches(task: ClassTask, questions: Sequence[Question]) -> list[list[int]]:
    """Places of the questions by length, so many tokens together."""
    lengths = [len(task.read(each).token_ids) for each in questions]
    batches: list[list[int]] = []
    held = _TOKENS_AT_ONCE
    for place in sorted(range(len(questions)), key=lengths.__getitem__):
        if held + lengths[place] > _TOKENS_AT_ONCE:
            batches.append([])
            held = 0
        batches[-1].append(place)
        held += lengths[place]
    return batches


def label_scores(
    policy: ClassPolicy, task: ClassTask, questions: Sequence[Question], emitter: Emitter = SILENT, *, label: str = ""
) -> list[Tensor]:
    """Scores of every question in their order, [K, C] each. Arguments: see `label_all`."""
    found: dict[int, Tensor] = {}
    for places in _batches(task, questions):
        found.update(zip(places, _scores(policy, task, [questions[each] for each in places]), strict=True))
        emitter.emit("progress", what=label, done=len(found), total=len(questions))
    return [found[place] for place in range(len(questions))]


@torch.inference_mode()
def _scores(policy: ClassPolicy, task: ClassTask, questions: Sequence[Question]) -> list[Tensor]:
    read = [replace(task.read(each), row=place) for place, each in enumerate(questions)]
    batch = task.pack(read)
    scores_KC = policy.logits(batch.to(policy.device)).float().cpu()
    # Rows that begin alike stand side by side in a batch, whatever their order here.
    order = [row for row in batch.row.tolist() if row >= 0]
    parts = scores_KC.split([read[row].learned for row in order])
    return [part for _, part in sorted(zip(order, parts, strict=True), key=lambda pair: pair[0])]


def _answers(policy: ClassPolicy, task: ClassTask, questions: Sequence[Question]) -> list[str]:
    parts = _scores(policy, task, questions)
    return [task.answer(part, question) for part, question in zip(parts, questions, strict=True)]


def _time_alone(policy: ClassPolicy, task: ClassTask, question: Question) -> Timing:
    started = time.perf_counter()
    _answers(policy, task, [question])
    return Timing(time.perf_counter() - started, len(task.read(question).token_ids))


# -------------------------------------------------------------------------------------------- baselines


Baseline = Callable[[ClassTask, Sequence[Example], Sequence[Question]], list[str]]


def majority(task: ClassTask, train: Sequence[Example], questions: Sequence[Question]) -> list[str]:
    """The most frequent answer of the training rows; of tokens, `O`."""
    if task.head.task == "token_class":
        return [" ".join([OUTSIDE] * len(each.tokens)) for each in questions]
    several = task.head.several
    counted = Counter(in_words(each.labels) if several else each.labels[0] for each in train)
    return [counted.most_common(1)[0][0]] * len(questions)


def naive_bayes(task: ClassTask, train: Sequence[Example], questions: Sequence[Question]) -> list[str]:
    """Multinomial naive Bayes over words and pairs of words."""
    counts = CountVectorizer(analyzer=_words_and_pairs)
    seen = counts.fit_transform([each.text for each in train])
    asked = counts.transform([each.text for each in questions])
    if not task.head.several:
        return [str(each) for each in MultinomialNB().fit(seen, [each.labels[0] for each in train]).predict(asked)]
    binary = MultiLabelBinarizer(classes=list(task.head.labels))
    fitted = OneVsRestClassifier(MultinomialNB()).fit(seen, binary.fit_transform([each.labels for each in train]))
    return [in_words(each) for each in binary.inverse_transform(fitted.predict(asked))]


def _words_and_pairs(text: str) -> list[str]:
    words = tokens_of(text)
    return [*words, *(f"{left} {right}" for left, right in pairwise(words))]


def dictionary(task: ClassTask, train: Sequence[Example], questions: Sequence[Question]) -> list[str]:
    """Entities of the training rows wherever their tokens stand, the longest first, each with its usual kind."""
    kinds: dict[tuple[str, ...], Counter[str]] = {}
    for row in train:
        for kind, first, last in entities_of(row.labels):
            kinds.setdefault(row.tokens[first:last], Counter())[kind] += 1
    usual = {tokens: counted.most_common(1)[0][0] for tokens, counted in kinds.items()}
    return [_looked_up(each.tokens, usual) for each in questions]


def _looked_up(tokens: tuple[str, ...], usual: Mapping[tuple[str, ...], str]) -> str:
    tags = [OUTSIDE] * len(tokens)
    place = 0
    while place < len(tokens):
        ends = range(min(len(tokens), place + _LONGEST_ENTITY), place, -1)
        end = next((each for each in ends if tokens[place:each] in usual), place)
        for inside in range(place, end):
            tags[inside] = f"{'B' if inside == place else 'I'}-{usual[tokens[place:end]]}"
        place = max(end, place + 1)
    return " ".join(tags)


BASELINES: Mapping[str, Baseline] = {"majority": majority, "naive_bayes": naive_bayes, "dictionary": dictionary}
"""By the names that `answers.baseline_names` gives them."""
