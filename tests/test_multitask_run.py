"""Several tasks in the life cycle: a source is a task, in the losses and in the scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith import lifecycle, proof
from tunesmith.core.events import read_events
from tunesmith.core.files import read_json
from tunesmith.core.run import METRICS
from tunesmith.models.tiny import tiny_chat_model

RECIPE = """
name: tasks
model: {{base: {base}, dtype: float32}}
data:
  sources: [{{path: sums.jsonl, name: sums}}, {{path: colours.jsonl}}]
stages:
  - name: instruct
    objective: {{kind: multitask, sampling_temperature: 2.0, weights: {{sums: 2.0}}}}
    train: {{epochs: 2, learning_rate: 1e-2, batch_size: 8, save_steps: 3}}
evaluate: {{metrics: [exact_match], max_new_tokens: 4, examples: 0}}
ship: {{formats: [safetensors], parity: {{chats: 4}}}}
runtime: {{threads: 1, device: cpu}}
"""


def test_a_source_is_a_task(tmp_path: Path) -> None:
    tables = {
        "sums": [{"prompt": f"{place} + 1?", "completion": str(place + 1)} for place in range(40)],
        "colours": [{"prompt": f"colour {place}?", "completion": ("red", "blue")[place % 2]} for place in range(16)],
    }
    for name, rows in tables.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(base=tiny_chat_model(tmp_path / "base", spread=0.1)), "utf-8")
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.run_to_release(work)
    notes = [event.values for event in read_events(work.path / METRICS, "note")]
    told = {str(each["task"]): int(str(each["rows"])) for each in notes if each["code"] == "train.task"}
    by_size = {name: sum(row.origin.source == name for row in work.examples("train")) for name in told}
    assert told.keys() == {"sums", "colours.jsonl"} and sum(told.values()) == sum(by_size.values())
    assert told["colours.jsonl"] > by_size["colours.jsonl"], "the smaller task comes more often than by its size"
    for kind in ("step", "validation"):
        for event in read_events(work.path / METRICS, kind):
            losses = {name: float(str(value)) for name, value in event.values.items() if name.startswith("loss")}
            assert losses["loss"] == pytest.approx(losses["loss/sums"] + losses["loss/colours.jsonl"])
    scores = [event.values for event in read_events(work.path / METRICS, "result_of_source")]
    tuned = {each["source"]: each for each in scores if each["model"] == "tuned"}
    metrics = read_json(work.path / "evaluate" / "tuned.json")["metrics"]
    assert isinstance(metrics, dict)
    rows = sum(int(str(each["rows"])) for each in tuned.values())
    mean = sum(float(str(each["exact_match"])) * int(str(each["rows"])) for each in tuned.values()) / rows
    assert mean == pytest.approx(metrics["exact_match"])
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


def test_a_task_of_old_rows_alone(tmp_path: Path) -> None:
    """New rows are one task, replayed ones another, whose part of the loss is its weight and not its number of rows."""
    tables = {
        "sums": [{"prompt": f"{place} + 1?", "completion": str(place + 1)} for place in range(40)],
        "old": [{"prompt": f"colour {place}?", "completion": ("red", "blue")[place % 2]} for place in range(6)],
    }
    for name, rows in tables.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    text = RECIPE.format(base=tiny_chat_model(tmp_path / "base", spread=0.1))
    text = text.replace(", {path: colours.jsonl}", "").replace(
        "sampling_temperature: 2.0, weights: {sums: 2.0}", "weights: {old: 3}"
    )
    text = text.replace("    train:", "    replay: {share: 0.25, sources: [{path: old.jsonl, name: old}]}\n    train:")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text, "utf-8")
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.run_to_release(work)
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    for each in steps:
        told = {name: float(str(value)) for name, value in each.items() if name.startswith("loss")}
        assert told["loss"] == pytest.approx(told["loss/sums"] + told["loss/old"])
        assert told["loss/old"] == pytest.approx(0.75 * told["loss_of_old_rows"])
        assert told["loss/sums"] == pytest.approx(0.25 * told["loss_of_new_rows"])
    validations = [event.values for event in read_events(work.path / METRICS, "validation")]
    assert validations and all("loss/sums" in each and "loss/old" not in each for each in validations)
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
