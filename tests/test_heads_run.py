"""Several tasks with heads in the life cycle: figures, artefacts and answers of each, one training for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from class_rows import several_rows, text_rows, token_rows, write_rows
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedTokenizerFast
from typer.testing import CliRunner

from tunesmith import lifecycle, proof
from tunesmith.cli.main import app
from tunesmith.cli.models import folder_with_head, published_folder
from tunesmith.cli.results import measured
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event
from tunesmith.core.ledger import Ledger
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder

RECIPE = """
name: heads
model: {{base: {base}, dtype: float32}}
data:
  tasks: {{intents: text_class, marks: multi_label, names: token_class}}
  sources: [{train}]
  validation_sources: [{validation}]
  test_sources: [{test}]
stages:
  - name: classify
    adapt: {adapt}
    objective: {{kind: multitask, sampling_temperature: 2.0, weights: {{names: 2.0}}, task_embeddings: {vectors}}}
    train: {{epochs: 4, learning_rate: 2e-2, batch_size: 8, max_length: 120}}
runtime: {{threads: 1, device: cpu}}
"""
MAKERS = {"intents": text_rows, "marks": several_rows, "names": token_rows}
METRICS = {
    "intents": {"accuracy", "macro_f1"},
    "marks": {"micro_f1", "macro_f1", "accuracy"},
    "names": {"entity_f1", "token_accuracy"},
}


def write_recipe(folder: Path, base: Path, adapt: str, *, vectors: bool) -> Path:
    sources = {}
    for split, count in (("train", 40), ("validation", 8), ("test", 12)):
        for name, make in MAKERS.items():
            fewer = 10 if (name, split) == ("marks", "train") else 0
            write_rows(folder / f"{name}-{split}.jsonl", make(count - fewer, split))  # type: ignore[arg-type]
        sources[split] = ", ".join(f"{{name: {name}, path: {name}-{split}.jsonl}}" for name in MAKERS)
    text = RECIPE.format(base=base, adapt=adapt, vectors=str(vectors).lower(), **sources)
    (folder / "recipe.yaml").write_text(text, "utf-8")
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> tuple[lifecycle.Work, list[Event]]:
    folder, seen = tmp_path_factory.mktemp("merged"), list[Event]()
    recipe = write_recipe(folder, tiny_encoder(folder / "base", spread=0.1), "{kind: lora, rank: 4}", vectors=True)
    work = lifecycle.start(recipe, (), folder / "runs", (seen.append,))
    lifecycle.run_to_release(work)
    return work, seen


def kept_answers(work: lifecycle.Work, task: str, label: str = "tuned") -> list[str]:
    rows = json.loads((work.path / "evaluate" / f"{label}-{task}.json").read_text("utf-8"))["rows"]
    return [row["answer"] for row in rows]


def test_every_task_has_its_labels_figures_and_baselines(merged: tuple[lifecycle.Work, list[Event]]) -> None:
    work, seen = merged
    labels = json.loads((work.path / "labels.json").read_text("utf-8"))["tasks"]
    assert list(labels) == list(MAKERS) and labels["names"][0] == "O" and "urgent" in labels["marks"]
    files = {path.name for path in (work.path / "evaluate").iterdir()}
    second = {"intents": "naive_bayes", "marks": "naive_bayes", "names": "dictionary"}
    assert files == {f"{label}-{task}.json" for task in MAKERS for label in ("majority", second[task], "tuned")}
    for task, metrics in METRICS.items():
        stored = json.loads((work.path / "evaluate" / f"tuned-{task}.json").read_text("utf-8"))
        assert set(stored["metrics"]) == metrics and len(stored["rows"]) == 12
    validations = [event.values for event in seen if event.kind == "validation"]
    named = {f"{task}/{metric}" for task, metrics in METRICS.items() for metric in metrics}
    losses = {"loss", *(f"loss/{task}" for task in MAKERS)}
    assert validations and all(named | losses <= each.keys() for each in validations)
    for each in validations:
        of_tasks = [float(str(each[f"{task}/macro_f1"])) for task in ("intents", "marks")]
        assert float(str(each["macro_f1"])) == pytest.approx(sum(of_tasks) / 2)
    steps = [event.values for event in seen if event.kind == "step"]
    assert sum(float(str(each["loss"])) for each in steps[-4:]) < sum(float(str(each["loss"])) for each in steps[:4])
    assert [event.values["unchanged"] for event in seen if event.kind == "frozen"] == [True]


def test_the_card_tells_every_task_and_each_decides(merged: tuple[lifecycle.Work, list[Event]]) -> None:
    work, _ = merged
    card = (work.path / "release_card.md").read_text("utf-8")
    for line in ("intents: Accuracy", "marks: Micro F1", "names: Entity F1", "intents：", "safetensors\\-names"):
        assert line in card, line
    gates = [gate.name["en"] for gate in lifecycle.make_card(work).gates]
    assert sum("Accuracy" in name or "F1" in name for name in gates) == 3, gates


def test_each_model_answers_alone_in_transformers(merged: tuple[lifecycle.Work, list[Event]]) -> None:
    work, _ = merged
    assert {path.name for path in (work.path / "ship").iterdir()} == {f"safetensors-{task}" for task in MAKERS}
    for task in ("intents", "marks"):
        folder = work.path / "ship" / f"safetensors-{task}"
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        for row, kept in zip(read_rows(work, task), kept_answers(work, task), strict=True):
            read = tokenizer(str(row["text"]), return_tensors="pt", truncation=True, max_length=120)
            scores = model(input_ids=read["input_ids"]).logits.detach()[0]
            if task == "intents":
                assert model.config.id2label[int(scores.argmax())] == kept
            else:
                assert sorted(model.config.id2label[int(each)] for each in (scores > 0).nonzero()) == json.loads(kept)
    folder = work.path / "ship" / "safetensors-names"
    model = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True).eval()
    assert not any("task_embeddings" in name or "pooler" in name for name, _ in model.named_parameters())
    question = lifecycle.parts_of(work.recipe)[2].questions(work.examples("test"))[0]
    task_alone = lifecycle.parts_of(work.recipe)[2].of(work.task)
    features = task_alone.read(question)  # type: ignore[attr-defined]
    scores = model(input_ids=torch.tensor([features.token_ids])).logits[0].detach()
    at = [place for place, weight in enumerate(features.weights) if weight]
    assert task_alone.answer(scores[at], question) == kept_answers(work, "names")[0]  # type: ignore[attr-defined]


def read_rows(work: lifecycle.Work, task: str) -> list[dict[str, object]]:
    path = work.recipe_folder / f"{task}-test.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_run_is_proven(merged: tuple[lifecycle.Work, list[Event]]) -> None:
    certificate = proof.verify(merged[0])
    assert certificate is not None and certificate.equal


def test_predict_asks_the_task_that_is_named(merged: tuple[lifecycle.Work, list[Event]], tmp_path: Path) -> None:
    work, _ = merged
    for task in MAKERS:
        rows = work.recipe_folder / f"{task}-test.jsonl"
        arguments = ["predict", str(rows), "--model", str(work.path), "--task", task, "--out"]
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / f"{task}.jsonl")])
        assert result.exit_code == 0, result.output
        said = [json.loads(line)["answer"] for line in (tmp_path / f"{task}.jsonl").read_text("utf-8").splitlines()]
        if task == "marks":
            assert [sorted(each) for each in said] == [json.loads(each) for each in kept_answers(work, task)]
        else:
            assert [" ".join(each) if task == "names" else each for each in said] == kept_answers(work, task)
    with pytest.raises(TunesmithError, match=r"cli\.which_task") as error:
        folder_with_head(str(work.path))
    assert error.value.facts["known"] == "intents, marks, names"
    with pytest.raises(TunesmithError, match=r"cli\.which_task"):
        published_folder(work.path, "colours")
    with pytest.raises(TunesmithError, match=r"cli\.no_tasks"):
        published_folder(work.path / "ship" / "safetensors-names", "names")
    named = {f"{task}/{metric}" for task, metrics in METRICS.items() for metric in metrics}
    assert set(measured(work.path)["tuned"]) == named


@pytest.mark.parametrize(
    ("base", "adapt"),
    [
        ("encoder", "{kind: prefix, num_virtual_tokens: 4}"),
        ("decoder", "{kind: bottleneck, size: 4, places: parallel}"),
        ("decoder", "{kind: prompt, num_virtual_tokens: 4}"),
    ],
)
def test_what_cannot_be_merged_is_published_task_by_task(base: str, adapt: str, tmp_path: Path) -> None:
    make = {"encoder": tiny_encoder, "decoder": tiny_chat_model}[base]
    recipe = write_recipe(tmp_path, make(tmp_path / "base", spread=0.1), adapt, vectors=False)
    work = lifecycle.start(recipe, ("stages.0.train.epochs=1",), tmp_path / "runs", ())
    lifecycle.run_to_release(work)
    assert {path.name for path in (work.path / "ship").iterdir()} == {f"adapter-{task}" for task in MAKERS}
    for task in MAKERS:
        parity = json.loads((work.path / "ship" / f"adapter-{task}" / "parity.json").read_text("utf-8"))
        assert parity["ok"] is True
    rows = tmp_path / "names-test.jsonl"
    result = CliRunner().invoke(app, ["predict", str(rows), "--model", str(work.path), "--task", "names"])
    assert result.exit_code == 0, result.output
    answered = (tmp_path / "names-test.answers.jsonl").read_text("utf-8").splitlines()
    assert [" ".join(json.loads(line)["answer"]) for line in answered] == kept_answers(work, "names")


def test_one_text_may_be_a_row_of_two_tasks(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base", spread=0.1)
    recipe = write_recipe(tmp_path, base, "{kind: lora, rank: 4}", vectors=False)
    rows = [{"text": f"text {place}", "labels": [("yes", "no")[place % 2]]} for place in range(20)]
    write_rows(tmp_path / "marks-train.jsonl", rows)
    write_rows(tmp_path / "intents-train.jsonl", [{"text": row["text"], "label": row["labels"][0]} for row in rows])  # type: ignore[index]
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.prepare_data(work)
    merged = [entry for entry in Ledger.load(work.path / "ledger.jsonl").entries() if entry.fate == "merged"]
    assert not [entry for entry in merged if entry.source in ("marks", "intents")]
    by_task = [each.origin.source for each in work.examples("train")]
    assert by_task.count("marks") == by_task.count("intents") == 20


def test_rows_of_different_tasks_are_no_near_duplicates(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base", spread=0.1)
    recipe = write_recipe(tmp_path, base, "{kind: lora, rank: 4}", vectors=False)
    kept = {}
    for name, only in (("both", ()), ("near", ("data.clean.near_duplicates=0.95",))):
        work = lifecycle.start(recipe, only, tmp_path / name, ())
        lifecycle.prepare_data(work)
        sources = [each.origin.source for each in work.examples("train")]
        texts = {each.text for each in work.examples("train") if each.origin.source == "intents"}
        same = [each for each in work.examples("train") if each.origin.source == "marks" and each.text in texts]
        assert same, "both tasks ask about the same texts"
        kept[name] = sources.count("marks")
    assert kept["near"] > kept["both"] / 2


def test_a_task_without_rows_in_a_split_is_named(tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base", spread=0.1)
    recipe = write_recipe(tmp_path, base, "{kind: lora, rank: 4}", vectors=False)
    (tmp_path / "marks-validation.jsonl").write_text((tmp_path / "marks-test.jsonl").read_text("utf-8"), "utf-8")
    with pytest.raises(TunesmithError, match=r"lifecycle\.task_without_rows") as error:
        lifecycle.prepare_data(lifecycle.start(recipe, (), tmp_path / "runs", ()))
    assert error.value.facts == {"task": "marks", "split": "validation"}
