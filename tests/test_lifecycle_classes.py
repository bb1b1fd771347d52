"""The life cycle of tasks with classes, on tiny models: from rows to an artefact that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from class_rows import several_rows, text_rows, token_rows, write_rows
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedTokenizerFast

from tunesmith import lifecycle, proof
from tunesmith.cli.models import base_of, folder_with_head
from tunesmith.cli.predict_classes import classes_of_rows
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event
from tunesmith.core.files import read_manifest
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder, tiny_moe_model

RECIPE = """
name: classes
model: {{base: {base}, dtype: float32}}
data:
  task: {task}
  {more}
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: classify
    adapt: {adapt}
    train: {{epochs: 4, learning_rate: 2e-2, batch_size: 8, max_length: 128}}
runtime: {{threads: 1, device: cpu}}
"""
MAKERS = {"encoder": tiny_encoder, "decoder": tiny_chat_model, "moe": tiny_moe_model}
ROWS = {"text_class": text_rows, "several": several_rows, "token_class": token_rows}
ADAPTS = {
    "lora": "{kind: lora, rank: 4}",
    "top lora": "{kind: lora, rank: 4, first_layer: -1, target_modules: attention}",
    "full": "{kind: full}",
    "bitfit": "{kind: subset, parts: [norm, bias]}",
}


def write_recipe(folder: Path, base: str, task: str, adapt: str) -> Path:
    rows = ROWS[task]
    for name, count, split in (("train", 48, "train"), ("validation", 16, "validation"), ("test", 20, "test")):
        write_rows(folder / f"{name}.jsonl", rows(count, split))  # type: ignore[arg-type]
    model = MAKERS[base](folder / "base", spread=0.1)
    more = "rows: multi_label" if task == "several" else "{}"
    text = RECIPE.format(base=model, task=task.replace("several", "text_class"), more=more, adapt=ADAPTS[adapt])
    (folder / "recipe.yaml").write_text(text.replace("  {}\n", ""), "utf-8")
    return folder / "recipe.yaml"


@pytest.mark.parametrize(
    ("base", "task", "adapt"),
    [
        ("encoder", "text_class", "lora"),
        ("encoder", "several", "full"),
        ("encoder", "token_class", "top lora"),
        ("decoder", "text_class", "full"),
        ("decoder", "token_class", "lora"),
        ("encoder", "text_class", "bitfit"),
    ],
)
def test_rows_become_an_artefact_with_proof(base: str, task: str, adapt: str, tmp_path: Path) -> None:
    seen: list[Event] = []
    recipe = write_recipe(tmp_path, base, task, adapt)
    work = lifecycle.start(recipe, (), tmp_path / "runs", (seen.append,))
    lifecycle.run_to_release(work)
    results = {path.stem: json.loads(path.read_text("utf-8")) for path in (work.path / "evaluate").glob("*.json")}
    second = "dictionary" if task == "token_class" else "naive_bayes"
    assert set(results) == {"majority", second, "tuned"}
    assert {len(each["rows"]) for each in results.values()} == {20}
    losses = [float(str(event.values["loss"])) for event in seen if event.kind == "step"]
    assert sum(losses[-4:]) < sum(losses[:4]), "it learns"
    assert [event.values["unchanged"] for event in seen if event.kind == "frozen"] == [True]
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
    check_with_transformers(work)
    if adapt.endswith("lora"):
        check_with_peft(work)
    card = (work.path / "release_card.md").read_text("utf-8")
    assert "Most frequent label" in card and "最常见的标签" in card


def check_with_transformers(work: lifecycle.Work) -> None:
    """transformers' own class, one text at a time, says what the run has kept."""
    folder, head, task = work.path / "ship" / "safetensors", work.head, work.task
    assert head is not None
    kind = AutoModelForSequenceClassification if head.task == "text_class" else AutoModelForTokenClassification
    model = kind.from_pretrained(folder, local_files_only=True).eval()
    assert model.config.id2label == dict(enumerate(head.labels))
    questions = lifecycle.test_questions(work)
    kept = json.loads((work.path / "evaluate" / "tuned.json").read_text("utf-8"))["rows"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for question, row in zip(questions, kept, strict=True):
        if head.task == "text_class":
            read = tokenizer(question.text, return_tensors="pt", truncation=True, max_length=128)
            scores = model(input_ids=read["input_ids"]).logits.detach()
        else:
            features = task.read(question)
            scores = model(input_ids=torch.tensor([features.token_ids])).logits[0].detach()
            scores = scores[[place for place, weight in enumerate(features.weights) if weight]]
        assert task.answer(scores, question) == row["answer"]


def check_with_peft(work: lifecycle.Work) -> None:
    """PEFT reads the adapter with its head, and says what the merged artefact says."""
    head = work.head
    assert head is not None
    kind = AutoModelForSequenceClassification if head.task == "text_class" else AutoModelForTokenClassification
    base = kind.from_pretrained(work.recipe.model.base, num_labels=len(head.labels), dtype=torch.float32)
    wrapped = PeftModel.from_pretrained(base, work.change).eval()
    merged = kind.from_pretrained(work.path / "ship" / "safetensors", dtype=torch.float32).eval()
    token_ids = torch.tensor([[5, 9, 17, 33, 8]])
    with torch.no_grad():
        torch.testing.assert_close(wrapped(input_ids=token_ids).logits, merged(input_ids=token_ids).logits)


def test_the_head_stands_in_every_change(tmp_path: Path) -> None:
    work = lifecycle.start(write_recipe(tmp_path, "encoder", "text_class", "lora"), (), tmp_path / "runs", ())
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        stage(work)
    stored = load_file(work.change / "adapter_model.safetensors")
    config = json.loads((work.change / "adapter_config.json").read_text("utf-8"))
    assert config["modules_to_save"] == ["classifier"] and config["task_type"] == "SEQ_CLS"
    assert {name for name in stored if "lora" not in name} == {
        "base_model.model.classifier.weight", "base_model.model.classifier.bias",
    }  # fmt: skip


def test_dropout_trains_through_the_whole_life_cycle(tmp_path: Path) -> None:
    recipe, ends = write_recipe(tmp_path, "encoder", "text_class", "full"), []
    for dropout in ("", "own"):
        overrides = (f"model.dropout={dropout}",) if dropout else ()
        seen: list[Event] = []
        work = lifecycle.start(recipe, overrides, tmp_path / f"runs{dropout}", (seen.append,))
        lifecycle.run_to_release(work)
        assert proof.verify(work) is not None
        losses = [float(str(event.values["loss"])) for event in seen if event.kind == "step"]
        assert sum(losses[-4:]) < sum(losses[:4]), "it learns"
        assert ("dropout: own" in (work.path / "recipe.lock.yaml").read_text("utf-8")) == bool(dropout)
        ends.append(losses)
    assert ends[0] != ends[1]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("evaluate: {metrics: [rouge_l]}", ""), "compat.metric_of_task"),
        (("ship: {formats: [gguf-q8_0]}", ""), "compat.format_of_task"),
        (("", "rows: token_class"), "compat.rows_of_task"),
        (("", "rows: classes"), "recipe.bad_value"),
    ],
)
def test_what_a_head_cannot_do_is_refused_by_name(change: tuple[str, str], code: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "encoder", "text_class", "lora")
    text = recipe.read_text("utf-8") + change[0] + "\n"
    recipe.write_text(text.replace("  task: text_class\n", f"  task: text_class\n  {change[1]}\n"), "utf-8")
    with pytest.raises(TunesmithError, match=code):
        lifecycle.start(recipe, (), tmp_path / "runs", ())


@pytest.mark.parametrize("both", [True, False])
def test_sources_in_two_schemes_of_tags_are_told(both: bool, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "encoder", "token_class", "lora")
    tokens = ["Send", "it", "to", "New", "York", "or", "Oslo", "today", "please"]
    last, single = ("E", "S") if both else ("I", "B")
    tags = [*"OOO", "B-place", f"{last}-place", "O", f"{single}-place", *"OO"]
    write_rows(tmp_path / "other.jsonl", [{"tokens": tokens, "tags": tags}])
    changes = ("data.sources=[{path: train.jsonl, name: one}, {path: other.jsonl, name: other}]",)
    seen: list[Event] = []
    lifecycle.prepare_data(lifecycle.start(recipe, changes, tmp_path / "runs", (seen.append,)))
    told = [e.values for e in seen if e.kind == "note" and e.values["code"] == "lifecycle.two_schemes"]
    assert [(each["bio"], each["bioes"]) for each in told] == ([("one", "other")] if both else [])


def test_one_label_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "encoder", "text_class", "lora")
    for name in ("train", "validation", "test"):
        rows = [json.loads(line) | {"label": "same"} for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(TunesmithError, match=r"lifecycle\.one_label"):
        lifecycle.prepare_data(lifecycle.start(recipe, (), tmp_path / "runs", ()))


@pytest.mark.parametrize(
    ("base", "task", "adapt"),
    [
        ("moe", "text_class", "{kind: experts, experts: [0, 2], router: true}"),
        ("moe", "token_class", "{kind: experts, most_used: 2}"),
        ("decoder", "several", "{kind: lora-experts, new_experts: 3, rank: 4}"),
    ],
)
def test_experts_are_published_with_a_head(
    base: str, task: str, adapt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTS, "experts", adapt)
    seen: list[Event] = []
    recipe = write_recipe(tmp_path, base, task, "experts")
    overrides = ("stages.0.penalties={router_balance: 0.01}", "stages.0.train.gradient_accumulation_steps=2")
    work = lifecycle.start(recipe, overrides, tmp_path / "runs", (seen.append,))
    lifecycle.run_to_release(work)
    losses = [float(str(event.values["loss"])) for event in seen if event.kind == "step"]
    assert sum(losses[-4:]) < sum(losses[:4]), "it learns"
    assert [event.values["unchanged"] for event in seen if event.kind == "frozen"] == [True]
    (folder,) = (work.path / "ship").iterdir()
    assert folder.name == ("adapter" if base == "decoder" else "safetensors")
    assert json.loads((folder / "parity.json").read_text("utf-8"))["ok"] is True
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
    if base == "moe":
        check_with_transformers(work)
    else:
        assert "tunesmith predict rows.jsonl" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("base", "task", "places"), [("encoder", "token_class", "houlsby"), ("decoder", "text_class", "parallel")]
)
def test_a_bottleneck_is_published_with_its_head_beside_the_base(
    base: str, task: str, places: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTS, "bottleneck", f"{{kind: bottleneck, size: 8, places: {places}}}")
    seen: list[Event] = []
    work = lifecycle.start(write_recipe(tmp_path, base, task, "bottleneck"), (), tmp_path / "runs", (seen.append,))
    lifecycle.run_to_release(work)
    losses = [float(str(event.values["loss"])) for event in seen if event.kind == "step"]
    assert sum(losses[-4:]) < sum(losses[:4]), "it learns"
    assert [event.values["unchanged"] for event in seen if event.kind == "frozen"] == [True]
    folder = work.path / "ship" / "adapter"
    parity = json.loads((folder / "parity.json").read_text("utf-8"))
    assert parity["ok"] is True and parity["judge"].startswith("plain torch")
    card = (folder / "README.md").read_text("utf-8")
    assert "register_forward_hook" in card and "PeftModel" not in card and "library_name: transformers" in card
    assert proof.verify(work) is not None


@pytest.mark.parametrize(
    ("base", "task", "adapt"),
    [
        ("encoder", "text_class", "{kind: prefix, num_virtual_tokens: 6}"),
        ("encoder", "token_class", "{kind: prefix, num_virtual_tokens: 6, prefix_projection: true}"),
        ("decoder", "text_class", "{kind: prompt, num_virtual_tokens: 6}"),
    ],
)
def test_a_learned_beginning_is_published_with_its_head_beside_the_base(
    base: str, task: str, adapt: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTS, "beginning", adapt)
    seen: list[Event] = []
    recipe = write_recipe(tmp_path, base, task, "beginning")
    work = lifecycle.start(recipe, (), tmp_path / "runs", (seen.append,))
    lifecycle.run_to_release(work)
    # the encoder has 128 positions, of which the beginning takes six: longer rows are cut there, also when asked later
    assert work.max_length == (122 if base == "encoder" else 128)
    assert read_manifest(work.path / "ship" / "adapter")["max_length"] == work.max_length
    longest = max(len(row.token_ids) for split in ("train", "test") for row in work.features(split))  # type: ignore[arg-type]
    assert longest == work.max_length
    losses = [float(str(event.values["loss"])) for event in seen if event.kind == "step"]
    assert sum(losses[-4:]) < sum(losses[:4]), "it learns"
    assert [event.values["unchanged"] for event in seen if event.kind == "frozen"] == [True]
    assert [path.name for path in (work.path / "ship").iterdir()] == ["adapter"]
    parity = json.loads((work.path / "ship" / "adapter" / "parity.json").read_text("utf-8"))
    assert parity["ok"] is True and parity["judge"].startswith("PEFT")
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
    card = (work.path / "ship" / "adapter" / "README.md").read_text("utf-8")
    assert "PeftModel.from_pretrained" in card and "library_name: peft" in card
    folder = folder_with_head(str(work.path))
    assert folder is not None
    asked = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text("utf-8").splitlines()]
    found = classes_of_rows(folder, asked, None, "test.jsonl", base_of(folder, None))
    kept = json.loads((work.path / "evaluate" / "tuned.json").read_text("utf-8"))["rows"]
    said = [" ".join(each["answer"]) if task == "token_class" else each["answer"] for each in found]  # type: ignore[arg-type]
    assert said == [row["answer"] for row in kept]
