"""Labels: figures of agreement by their sources, suspected labels that were flipped, names that mean the same."""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.labels.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha
from tunesmith.data.labels.suspect import suspicions
from tunesmith.data.prepare import prepare, write
from tunesmith.recipe.specs.data import DataSpec


def test_cohen_is_that_of_scikit_learn() -> None:
    draw = random.Random(1)
    for labels in ("ab", "abcd"):
        one = draw.choices(labels, k=200)
        other = [label if draw.random() < 0.6 else draw.choice(labels) for label in one]
        assert cohen_kappa(one, other) == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)
    assert cohen_kappa("aabb", "aabb") == 1
    assert math.isnan(cohen_kappa("aaaa", "aaaa"))


def test_fleiss_by_closed_forms() -> None:
    """The worked example that every textbook repeats: 10 items, 14 raters, 5 classes: kappa = 0.210."""
    counts = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    items = [[str(label) for label, count in enumerate(row) for _ in range(count)] for row in counts]
    assert fleiss_kappa(items) == pytest.approx(0.2099, abs=5e-5)
    assert fleiss_kappa(["aa", "bb"]) == 1
    assert fleiss_kappa(["ab", "ab"]) == -1
    with pytest.raises(ValueError, match="raters"):
        fleiss_kappa(["aa", "b"])


def test_krippendorff_by_the_authors_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", part C: nominal alpha = 0.743."""
    gap = None
    coders = [
        (1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3),
        (gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap),
    ]
    items = [[None if label is None else str(label) for label in unit] for unit in zip(*coders, strict=True)]
    assert krippendorff_alpha(items) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1
    assert math.isnan(krippendorff_alpha([["a", None], ["b"]]))
    # Two coders without gaps: 1 - (2N - 1) / 2N of what Scott's pi leaves (closed form for nominal data).
    one, other = "aababbba", "abababaa"
    share = (one + other).count("a") / 16
    observed = sum(a != b for a, b in zip(one, other, strict=True)) / 8
    expected = 2 * share * (1 - share) * 16 / 15
    assert krippendorff_alpha(list(zip(one, other, strict=True))) == pytest.approx(1 - observed / expected)


def reviews(rows: int, flipped: int) -> tuple[list[str], list[str], list[int]]:
    draw = random.Random(6)
    words = {"good": "tasty fast friendly warm 好吃 热情".split(), "bad": "cold late rude raw 难吃 太慢".split()}
    labels = [draw.choice(["good", "bad"]) for _ in range(rows)]
    texts = [
        " ".join([*draw.choices(words[label], k=3), *draw.choices("the food was 送餐 today".split(), k=3)])
        for label in labels
    ]
    wrong = draw.sample(range(rows), flipped)
    stated = [({"good": "bad", "bad": "good"}[label] if row in wrong else label) for row, label in enumerate(labels)]
    return texts, stated, [int(row in wrong) for row in range(rows)]


def test_flipped_labels_are_the_most_suspicious() -> None:
    texts, stated, flipped = reviews(300, 20)
    found = suspicions(texts, stated)
    assert [each.row for each in found] == list(range(300))
    assert roc_auc_score(flipped, [-each.probability for each in found]) > 0.99
    assert all(each.other != each.label and 0 <= each.probability <= 1 for each in found)
    assert found == suspicions(texts, stated)


def test_rare_labels_are_not_judged_and_one_label_is_certain() -> None:
    texts, stated, _ = reviews(40, 0)
    found = suspicions([*texts, "odd"], [*stated, "alone"])
    assert found[-1].probability == 1.0
    assert [each.probability for each in suspicions(["a", "b", "c"], ["x", "x", "x"])] == [1.0] * 3


def test_flipped_labels_of_real_reviews(shared_data: Path) -> None:
    folder = shared_data / "dirty-text"
    with (folder / "labels_noisy.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with (folder / "labels_noisy_truth.csv").open(encoding="utf-8") as file:
        flipped = [int(row["flipped"]) for row in csv.DictReader(file)]
    found = suspicions([row["review"] for row in rows], [row["label"] for row in rows])
    assert roc_auc_score(flipped, [-each.probability for each in found]) >= 0.85


def labelled(tmp_path: Path, **labels: object) -> DataSpec:
    texts, stated, _ = reviews(200, 10)
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row, (text, label) in enumerate(zip(texts, stated, strict=True)):
            writer.writerow([f"{row} {text}", "Good " if label == "good" and row % 7 == 0 else label])
    return DataSpec.model_validate(
        {"task": "text_class", "sources": [{"path": "rows.csv"}], **({"labels": labels} if labels else {})}
    )


def test_labels_are_renamed_suspected_and_told(tmp_path: Path) -> None:
    ledger, run = Ledger(), tmp_path / "run"
    run.mkdir()
    prepared = prepare(labelled(tmp_path, names={"Good": "good"}, suspected="report", at_least=0.8), tmp_path, ledger)
    assert {label for frame in prepared.frames.values() for label in frame["labels"].explode()} == {"good", "bad"}
    assert ledger.changed()["label_renamed"][0] > 3
    write(prepared, run)
    lines = [json.loads(line) for line in (run / "suspected_labels.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) >= 5 and all(line["other_probability"] >= 0.8 for line in lines)
    assert set(lines[0]) == {"row", "source", "index", "label", "probability", "other", "other_probability"}
    assert "labels by the names that are meant" in (run / "data_card.md").read_text("utf-8")


def test_suspected_rows_go_where_that_is_asked(tmp_path: Path) -> None:
    ledger = Ledger()
    prepare(labelled(tmp_path, names={"Good": "good"}, suspected="drop", at_least=0.8), tmp_path, ledger)
    assert ledger.totals()["dropped: suspected_label"] >= 5


def test_names_that_differ_by_their_case_alone_are_told_and_unknown_ones_refused(tmp_path: Path) -> None:
    prepared = prepare(labelled(tmp_path), tmp_path, Ledger())
    assert [note.facts for note in prepared.notes if note.code == "data.alike_labels"] == [{"labels": "Good, good"}]
    with pytest.raises(TunesmithError) as error:
        prepare(labelled(tmp_path, names={"god": "good"}), tmp_path, Ledger())
    assert error.value.code == "data.unknown_label"


def test_only_texts_with_one_label_can_be_suspected(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'
    )
    spec = DataSpec.model_validate({"sources": [{"path": "rows.jsonl"}], "labels": {"suspected": "report"}})
    with pytest.raises(TunesmithError) as error:
        prepare(spec, tmp_path, Ledger())
    assert error.value.code == "data.labels_not_single"
