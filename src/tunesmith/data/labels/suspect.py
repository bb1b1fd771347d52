"""Suspected wrong labels: what a simple model, trained on other rows, thinks of each label (out-of-fold probabilities).

Logistic regression on hashed words and pairs of words (single characters where no blanks separate them), weighted by
rarity. A label is the more suspicious the less probable it is to the model that has not seen its row (self-confidence,
Northcutt, Jiang and Chuang 2021, 1911.00068, section 2).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

_WORDS = re.compile(r"[^\W_\u3400-\u9fff]+|[\u3400-\u9fff]")
_HASHES = 2**18


@dataclass(frozen=True)
class Suspicion:
    """A row's stated label, its probability, and the most probable label besides it. `row` counts from 0."""

    row: int
    label: str
    probability: float
    other: str
    other_probability: float


def suspicions(texts: Sequence[str], labels: Sequence[str], folds: int = 5, seed: int = 42) -> list[Suspicion]:
    """Every row's label as the models see it, in the rows' order.

    Rows of a label that fewer than two rows have cannot be judged and count as certain. Fewer folds are used where the
    rarest label has fewer rows than there are folds.
    """
    names, stated, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    judged = np.flatnonzero(counts[stated] > 1)
    probability = np.zeros((len(texts), len(names)))
    probability[np.arange(len(texts)), stated] = 1.0
    if len(np.unique(stated[judged])) > 1:
        parts = min(folds, int(counts[counts > 1].min()))
        features = HashingVectorizer(
            analyzer=_pieces, n_features=_HASHES, alternate_sign=False, norm=None, binary=True
        ).transform([texts[int(row)] for row in judged])
        for seen, unseen in StratifiedKFold(parts, shuffle=True, random_state=seed).split(features, stated[judged]):
            model = make_pipeline(TfidfTransformer(), SGDClassifier(loss="log_loss", random_state=seed))
            model.fit(features[seen], stated[judged][seen])
            rows = judged[unseen]
            probability[rows] = 0.0
            probability[np.ix_(rows, model.classes_)] = model.predict_proba(features[unseen])
    return [_suspicion(row, probability[row], int(stated[row]), names) for row in range(len(texts))]


def _pieces(text: str) -> list[str]:
    words = _WORDS.findall(text.lower())
    return words + [f"{one} {after}" for one, after in pairwise(words)]


def _suspicion(row: int, probability: np.ndarray, stated: int, names: np.ndarray) -> Suspicion:
    others = probability.copy()
    others[stated] = -1.0
    other = int(others.argmax())
    return Suspicion(
        row, str(names[stated]), float(probability[stated]), str(names[other]), max(0.0, float(others[other]))
    )
