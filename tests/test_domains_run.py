"""Two domains in the life cycle: texts without labels, a test in the target, and a model that is published alone."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from class_rows import text_rows, token_rows, write_rows
from safetensors import safe_open

from tunesmith import lifecycle, proof
from tunesmith.core.events import read_events
from tunesmith.core.files import read_json
from tunesmith.core.run import METRICS
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder

RECIPE = """
name: domains
model: {{base: {base}, dtype: float32}}
data:
  task: text_class
  sources: [{{path: train.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: classify
    adapt: {{kind: {adapt}}}
    objective:
      kind: adversarial
      target_sources: [{{path: target.jsonl}}]
      reversal: {{max_lambda: 1, hidden_size: 16}}
      mmd: {{weight: 0.5}}
    train:
      {{epochs: 2, learning_rate: 1e-2, batch_size: 4, gradient_accumulation_steps: 2, max_length: 96, save_steps: 3}}
runtime: {{threads: 1, device: cpu}}
"""
MAKERS = {"encoder": tiny_encoder, "decoder": tiny_chat_model}


@pytest.mark.parametrize(("body", "adapt"), [("encoder", "full"), ("decoder", "lora")])
def test_from_texts_to_proof(body: str, adapt: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", text_rows(40))
    test = text_rows(12, "test")
    write_rows(tmp_path / "test.jsonl", test)
    texts: list[dict[str, object]] = [{"review": row["text"], "stars": 5} for row in text_rows(24, seed=7)]
    texts += [{"review": test[0]["text"]}, {"review": " "}]
    write_rows(tmp_path / "target.jsonl", texts)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(base=MAKERS[body](tmp_path / "base", spread=0.1), adapt=adapt), "utf-8")
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.run_to_release(work)

    table = pl.read_parquet(work.path / "data" / "classify-target.parquet")
    assert set(table["text"]) == {row["review"] for row in texts[:24]}, "neither the test's text nor the empty one"
    assert table["labels"].list.len().sum() == 0 and set(table["kind"]) == {"text_class"}
    rows = [json.loads(line) for line in (work.path / "ledger.jsonl").read_text("utf-8").splitlines()]
    fates = [row for row in rows if row["source"] == "target.jsonl"]
    assert len(fates) == 26

    notes = {str(event.values["code"]): event.values for event in read_events(work.path / METRICS, "note")}
    assert (notes["train.domains"]["target"], notes["train.domains"]["rows"]) == (4, 8)
    width = int(str(read_json(tmp_path / "base" / "config.json")["hidden_size"]))
    assert notes["train.domain_classifier"]["parameters"] == 16 * (width + 2) + 1
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert all({"task", "domain", "mmd", "lambda", "domain_accuracy"} <= set(each) for each in steps)
    assert "adapted to an unlabelled domain, gradient reversal up to 1" in (work.path / "release_card.md").read_text(
        "utf-8"
    )

    for file in (work.path / "ship").glob("*/*.safetensors"):
        with safe_open(file, "pt") as tensors:
            assert not any("own." in name for name in tensors.keys())
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


def test_words_from_rows_to_proof(tmp_path: Path) -> None:
    """Of the target's rows words alone are read: those of tagged rows, and those that a text is made of."""
    write_rows(tmp_path / "train.jsonl", token_rows(40))
    test = token_rows(12, "test")
    write_rows(tmp_path / "test.jsonl", test)
    tagged = token_rows(20, seed=7)
    texts = [{"text": "Where is the Lamp-3, please?"}, {"tokens": test[0]["tokens"]}, {"tokens": []}, {"text": " "}]
    write_rows(tmp_path / "target.jsonl", [*tagged, *texts])  # type: ignore[list-item]
    recipe = tmp_path / "recipe.yaml"
    base = tiny_encoder(tmp_path / "base", spread=0.1)
    text = RECIPE.format(base=base, adapt="lora").replace("task: text_class", "task: token_class")
    recipe.write_text(text, "utf-8")
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.run_to_release(work)

    table = pl.read_parquet(work.path / "data" / "classify-target.parquet")
    asked = test[0]["tokens"]
    wanted = [each["tokens"] for each in tagged if each["tokens"] != asked]
    wanted.append(["Where", "is", "the", "Lamp", "-", "3", ",", "please", "?"])
    found = [list(each) for each in table["tokens"]]
    assert all(each in wanted for each in found) and asked not in found
    assert wanted[-1] in found and table["labels"].list.len().sum() == 0
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert all({"task", "domain", "mmd", "lambda", "domain_accuracy"} <= set(each) for each in steps)
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
