"""What answers gain over other answers to the same questions, with the interval of a paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.evaluate.answers import Question, Result
from tunesmith.evaluate.class_metrics import COUNTED, counts_of
from tunesmith.evaluate.intervals import Counts, Interval, paired_f1_gain, paired_gain
from tunesmith.evaluate.metrics import OF_ALL_ROWS


def gain(name: str, new: Sequence[Result], old: Sequence[Result], questions: Sequence[Question]) -> Interval | None:
    """The gain in a metric; of several models a side (one a seed), each question counts by its mean over them.

    None for a corpus figure whose rows have no counts of their own.
    """
    if name in COUNTED:
        wanted = [each.wanted for each in questions]
        return paired_f1_gain(_counts(name, new, wanted), _counts(name, old, wanted))
    return None if name in OF_ALL_ROWS else paired_gain(_scores(name, new), _scores(name, old))


def _scores(name: str, results: Sequence[Result]) -> list[float]:
    found: list[float] = np.mean([each.scores.rows[name] for each in results], axis=0).tolist()
    return found


def _counts(name: str, results: Sequence[Result], wanted: Sequence[str]) -> list[Counts]:
    """Right, answered and wanted ones of every row, summed over the models."""
    each_SN3 = np.asarray([counts_of(name, each.answers.texts, wanted) for each in results], dtype=np.float64)
    return [(right, answered, asked) for right, answered, asked in each_SN3.sum(axis=0).tolist()]
