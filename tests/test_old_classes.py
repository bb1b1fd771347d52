"""Old rows of tasks with classes: held and replayed beside new ones, measured in what the head says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from class_rows import several_rows, text_rows, token_rows, write_rows
from typer.testing import CliRunner

from tunesmith import lifecycle, proof
from tunesmith.cli.main import app
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import read_events
from tunesmith.core.run import METRICS
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.models.weights import read_tensors

RECIPE = """
name: classes
model: {{base: {base}, dtype: float32}}
data:
  task: {task}
  rows: {rows}
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: classify
    adapt: {{kind: {adapt}}}
    penalties: {{l2_sp: 0.01, ewc: {{weight: 5, rows: 6, sources: [{{path: old.jsonl}}]}}}}
    replay: {{share: 0.25, sources: [{{path: old.jsonl}}]}}
    train: {{epochs: 2, learning_rate: 2e-2, batch_size: 8, max_length: 128}}
runtime: {{threads: 1, device: cpu}}
"""
MAKERS = {"encoder": tiny_encoder, "decoder": tiny_chat_model}
ROWS = {"text_class": text_rows, "several": several_rows, "token_class": token_rows}


def write_recipe(folder: Path, base: str, task: str, adapt: str) -> Path:
    rows = ROWS[task]
    for name, count, split, seed in (
        ("train", 32, "train", 1), ("validation", 12, "validation", 1), ("test", 12, "test", 1),
        ("old", 14, "train", 5),
    ):  # fmt: skip
        write_rows(folder / f"{name}.jsonl", rows(count, split, seed=seed))  # type: ignore[arg-type]
    model = MAKERS[base](folder / "base", spread=0.1)
    names = {"several": ("text_class", "multi_label")}.get(task, (task, task))
    text = RECIPE.format(base=model, task=names[0], rows=names[1], adapt=adapt)
    (folder / "recipe.yaml").write_text(text, "utf-8")
    return folder / "recipe.yaml"


@pytest.mark.parametrize(
    ("base", "task", "adapt"),
    [("encoder", "text_class", "lora"), ("encoder", "several", "full"), ("decoder", "token_class", "lora")],
)
def test_old_rows_from_recipe_to_proof(base: str, task: str, adapt: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, base, task, adapt)
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        stage(work)
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert steps[0]["ewc"] == 0.0 and float(str(steps[-1]["ewc"])) > 0
    notes = [event.values["code"] for event in read_events(work.path / METRICS, "note")]
    assert "train.fisher_new_head" in notes  # the tiny base has no head of its own
    fisher = read_tensors(work.path / "classify" / "fisher" / "tensors.safetensors")
    assert all(bool(torch.isfinite(each).all()) for each in fisher.values())
    assert any(bool((each > 0).any()) for each in fisher.values())
    certificate = proof.certify_resume(work)
    assert certificate.equal


def test_probes_of_text_are_not_for_classes(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "encoder", "text_class", "lora")
    with pytest.raises(TunesmithError, match="forgetting_of_task"):
        lifecycle.start(recipe, ("evaluate.forgetting=[probes]",), tmp_path / "runs", ())


HEADS = """
name: heads
model: {{base: {base}, dtype: float32}}
data:
  tasks: {{intents: text_class, names: token_class}}
  sources: [{train}]
  validation_sources: [{validation}]
  test_sources: [{test}]
stages:
  - name: classify
    adapt: {{kind: lora, rank: 4}}
    objective: {{kind: multitask}}
    penalties: {{ewc: {{weight: 5, rows: 6, sources: [{{name: names, path: names-old.jsonl}}]}}}}
    replay: {{share: 0.25, sources: [{{name: intents, path: intents-old.jsonl}}]}}
    train: {{epochs: 2, learning_rate: 1e-2, batch_size: 8, max_length: 120}}
runtime: {{threads: 1, device: cpu}}
"""


def test_old_rows_go_to_the_heads_that_their_sources_are_named_after(tmp_path: Path) -> None:
    makers, sources = {"intents": text_rows, "names": token_rows}, {}
    for split, count, seed in (("train", 24, 1), ("validation", 8, 1), ("test", 8, 1), ("old", 12, 5)):
        for name, make in makers.items():
            rows = make(count, "train" if split == "old" else split, seed=seed)  # type: ignore[arg-type]
            write_rows(tmp_path / f"{name}-{split}.jsonl", rows)
        sources[split] = ", ".join(f"{{name: {name}, path: {name}-{split}.jsonl}}" for name in makers)
    base = tiny_encoder(tmp_path / "base", spread=0.1)
    (tmp_path / "recipe.yaml").write_text(HEADS.format(base=base, **sources), "utf-8")
    work = lifecycle.start(tmp_path / "recipe.yaml", (), tmp_path / "runs", ())
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        stage(work)
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert steps[0]["ewc"] == 0.0 and float(str(steps[-1]["ewc"])) > 0
    assert all({"loss/intents", "loss/names", "loss_of_old_rows/intents"} <= each.keys() for each in steps)
    assert not any("loss_of_old_rows/names" in each for each in steps), "no old row of that task is replayed"
    notes = {event.values["code"]: event.values for event in read_events(work.path / METRICS, "note")}
    assert (notes["train.replay"]["old"], notes["train.replay"]["rows"]) == (2, 8)
    assert proof.certify_resume(work).equal


def test_a_task_with_old_rows_alone_has_a_head_too(tmp_path: Path) -> None:
    """From its rows to its artefact: learned from what is replayed, asked like any task, published like any task."""
    makers = {"intents": text_rows, "names": token_rows}
    for split, count, seed in (("train", 24, 1), ("validation", 8, 1), ("test", 8, 1), ("old", 12, 5)):
        for name, make in makers.items():
            rows = make(count, "train" if split == "old" else split, seed=seed)  # type: ignore[arg-type]
            write_rows(tmp_path / f"{name}-{split}.jsonl", rows)
    both = {
        split: ", ".join(f"{{name: {name}, path: {name}-{split}.jsonl}}" for name in makers)
        for split in ("validation", "test")
    }
    base = tiny_encoder(tmp_path / "base", spread=0.1)
    text = HEADS.format(base=base, train="{name: intents, path: intents-train.jsonl}", **both)
    text = text.replace("[{name: intents, path: intents-old.jsonl}]", "[{name: names, path: names-old.jsonl}]")
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    work = lifecycle.start(tmp_path / "recipe.yaml", (), tmp_path / "runs", ())
    lifecycle.run_to_release(work)
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert all({"loss/intents", "loss/names", "loss_of_old_rows/names"} <= each.keys() for each in steps)
    assert (work.path / "evaluate" / "tuned-names.json").is_file()
    assert {each.name for each in (work.path / "ship").iterdir()} >= {"safetensors-intents", "safetensors-names"}
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
    told = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs")]).stdout
    assert f"tunesmith predict FILE --model {work.path} --task intents" in " ".join(told.split())
    assert all(name in told for name in ("intents/accuracy", "names/token_accuracy")), "no name is cut"
