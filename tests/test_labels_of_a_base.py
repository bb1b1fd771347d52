"""A base that brings a head along: its labels keep their numbers, and rows with others are refused before anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from class_rows import text_rows, write_rows

from tunesmith import lifecycle
from tunesmith.core.errors import TunesmithError
from tunesmith.models.heads import Head
from tunesmith.models.load import load_with_head
from tunesmith.models.tiny import tiny_encoder
from tunesmith.work import Work

RECIPE = """
name: again
model: {{base: {base}, dtype: float32}}
data:
  task: text_class
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: classify
    train: {{epochs: 1, batch_size: 8, max_length: 128}}
runtime: {{threads: 1, device: cpu}}
"""


def known_labels() -> list[str]:
    return sorted({str(row["label"]) for row in text_rows(48)})


def prepared(folder: Path, labels: Sequence[str], rename: Callable[[str], str] = str) -> Work:
    """A run whose base has a head with these labels, and whose rows are named by `rename`."""
    base = tiny_encoder(folder / "plain")
    loaded = load_with_head(base, Head("text_class", tuple(labels)), dtype=torch.float32)
    loaded.model.save_pretrained(folder / "tuned")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "tuned" / name).write_bytes((base / name).read_bytes())
    for name, count, split in (("train", 48, "train"), ("validation", 16, "validation"), ("test", 20, "test")):
        rows = [{**row, "label": rename(str(row["label"]))} for row in text_rows(count, split)]  # type: ignore[arg-type]
        write_rows(folder / f"{name}.jsonl", rows)
    (folder / "recipe.yaml").write_text(RECIPE.format(base=folder / "tuned"), "utf-8")
    work = lifecycle.start(folder / "recipe.yaml", (), folder / "runs", ())
    lifecycle.prepare_data(work)
    return work


def test_the_rows_labels_take_the_numbers_of_the_base(tmp_path: Path) -> None:
    backwards = known_labels()[::-1]
    work = prepared(tmp_path, backwards)
    assert json.loads((work.path / "labels.json").read_text("utf-8"))["labels"] == backwards
    assert work.head is not None and work.load(work.base()).new == (), "the base's own head goes on"


def test_a_base_whose_labels_have_no_names_leaves_the_order_to_the_rows(tmp_path: Path) -> None:
    work = prepared(tmp_path, [f"LABEL_{place}" for place in range(len(known_labels()))])
    assert work.head is not None and list(work.head.labels) == known_labels()


@pytest.mark.parametrize(
    ("change", "rename", "said"),
    [
        (lambda labels: [*labels, "extra"], str, {"missing": "extra", "surplus": "-"}),
        (lambda labels: labels[1:], str, {"missing": "-", "surplus": known_labels()[0]}),
        (
            lambda labels: labels,
            lambda label: label.upper() if label == known_labels()[0] else label,
            {"names": f"{{{known_labels()[0].upper()}: {known_labels()[0]}}}"},
        ),
    ],
)
def test_labels_that_one_of_both_lacks_are_named_with_the_next_step(
    tmp_path: Path, change: Callable[[list[str]], list[str]], rename: Callable[[str], str], said: dict[str, str]
) -> None:
    with pytest.raises(TunesmithError) as caught:
        prepared(tmp_path, change(known_labels()), rename)
    assert caught.value.code == "models.other_labels"
    assert said.items() <= dict(caught.value.facts).items()
