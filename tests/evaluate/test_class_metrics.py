"""Metrics of classes against scikit-learn and seqeval, baselines against what they are."""

from __future__ import annotations

import random

import pytest
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from tunesmith.evaluate.entities import entities_of
from tunesmith.evaluate.intervals import paired_f1_gain
from tunesmith.evaluate.metrics import score
from tunesmith.tasks.text_class import in_words

LABELS = ["a", "b", "c d", "9"]
TAGS = ["O", "B-x", "I-x", "E-x", "S-x", "B-y", "I-y"]


def test_single_labels_against_scikit_learn() -> None:
    draw = random.Random(1)
    wanted = draw.choices(LABELS, k=200)
    answers = [each if draw.random() < 0.6 else draw.choice(LABELS) for each in wanted]
    found = score(["accuracy", "macro_f1"], answers, wanted)
    assert found.report.metrics["accuracy"] == pytest.approx(accuracy_score(wanted, answers))
    assert found.report.metrics["macro_f1"] == pytest.approx(f1_score(wanted, answers, average="macro"))
    assert sum(found.rows["macro_f1"]) == sum(a == w for a, w in zip(answers, wanted, strict=True))


def test_several_labels_against_scikit_learn() -> None:
    draw = random.Random(2)
    wanted = [draw.sample(LABELS, draw.randrange(4)) for _ in range(150)]
    answers = [draw.sample(LABELS, draw.randrange(4)) for _ in range(150)]
    binary = MultiLabelBinarizer(classes=LABELS)
    matrices = [binary.fit_transform(each) for each in (wanted, answers)]
    found = score(["micro_f1", "macro_f1", "accuracy"], list(map(in_words, answers)), list(map(in_words, wanted)))
    for metric in ("micro", "macro"):
        assert found.report.metrics[f"{metric}_f1"] == pytest.approx(f1_score(*matrices, average=metric))
    assert found.report.metrics["accuracy"] == pytest.approx(accuracy_score(*matrices))


def test_entities_against_seqeval() -> None:
    draw = random.Random(3)
    rows = [draw.choices(TAGS, weights=[6, 2, 3, 1, 1, 2, 2], k=draw.randrange(1, 30)) for _ in range(300)]
    answers = [[tag if draw.random() < 0.8 else draw.choice(TAGS) for tag in row] for row in rows]
    bio = [[["O" if tag[0] in "ES" else tag for tag in row] for row in side] for side in (rows, answers)]
    found = score(["entity_f1"], [" ".join(row) for row in bio[1]], [" ".join(row) for row in bio[0]])
    assert found.report.metrics["entity_f1"] == pytest.approx(seqeval_f1(*bio))


def test_entities_of_bioes() -> None:
    assert entities_of("S-x B-x E-x O B-y I-y E-y B-x".split()) == [("x", 0, 1), ("x", 1, 3), ("y", 4, 7), ("x", 7, 8)]


def test_the_gain_of_f1_has_the_interval_of_its_rows() -> None:
    draw = random.Random(4)
    new = [(float(draw.random() < 0.8), 1.0, 1.0) for _ in range(400)]
    old = [(float(draw.random() < 0.5), 1.0, 1.0) for _ in range(400)]
    gain = paired_f1_gain(new, old)
    assert gain.value == pytest.approx(sum(each[0] for each in new) / 400 - sum(each[0] for each in old) / 400)
    assert gain.low < gain.value < gain.high and 0.08 < gain.high - gain.low < 0.2
    same = paired_f1_gain(new, new)
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
