"""Metrics of classes. Answers and references are texts as the tasks write them: a label, a JSON list of labels, or one
tag a token with blanks between. Each gives one score a row; F1 of all rows is of the summed counts, not of the rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tunesmith.evaluate.entities import entities_of, f1

Counts = tuple[float, float, float]
"""Of one row: right ones, answered ones, wanted ones."""


def accuracy(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where the answer is the reference: the label, or exactly the set of labels."""
    return [float(answer == reference) for answer, reference in zip(answers, references, strict=True)]


def token_accuracy(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """Share of the row's tokens whose tag is right."""
    pairs = ((a.split(), r.split()) for a, r in zip(answers, references, strict=True))
    return [sum(map(str.__eq__, answer, wanted)) / max(1, len(wanted)) for answer, wanted in pairs]


def label_counts(answer: str, reference: str) -> Counts:
    """Counts of labels of one row."""
    answered, wanted = set(labels_of(answer)), set(labels_of(reference))
    return float(len(answered & wanted)), float(len(answered)), float(len(wanted))


def entity_counts(answer: str, reference: str) -> Counts:
    """Counts of entities of one row: right is one of the same kind from the same first to the same last token."""
    answered, wanted = entities_of(answer.split()), entities_of(reference.split())
    return float(len(set(answered) & set(wanted))), float(len(answered)), float(len(wanted))


def labels_of(text: str) -> list[str]:
    """The labels of an answer: those of a JSON list, or the one that the text is."""
    if text.startswith("["):
        try:
            listed = json.loads(text)
        except ValueError:
            return [text]
        if isinstance(listed, list):
            return [str(each) for each in listed]
    return [text]


COUNTED: Mapping[str, Callable[[str, str], Counts]] = {"micro_f1": label_counts, "entity_f1": entity_counts}
"""Metrics that are F1 over things counted in every row."""


def counts_of(metric: str, answers: Sequence[str], references: Sequence[str]) -> list[Counts]:
    """The counts of every row."""
    return [COUNTED[metric](answer, wanted) for answer, wanted in zip(answers, references, strict=True)]


def f1_of_rows(metric: str, answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """F1 of every row for itself."""
    return [f1(*each) for each in counts_of(metric, answers, references)]


def f1_of_all(metric: str, answers: Sequence[str], references: Sequence[str]) -> float:
    """F1 of the summed counts (micro average)."""
    right, answered, wanted = map(sum, zip(*counts_of(metric, answers, references), strict=True))
    return f1(right, answered, wanted)


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> float:
    """The mean of every label's own F1, over the labels that are wanted or answered somewhere."""
    right, answered, wanted = Counter[str](), Counter[str](), Counter[str]()
    for answer, reference in zip(answers, references, strict=True):
        said, meant = set(labels_of(answer)), set(labels_of(reference))
        right.update(said & meant)
        answered.update(said)
        wanted.update(meant)
    labels = answered.keys() | wanted.keys()
    return sum(f1(right[each], answered[each], wanted[each]) for each in labels) / max(1, len(labels))
