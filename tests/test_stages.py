"""Stages in a row, through the whole life cycle on tiny models: what each starts from, kept, killed and published."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from class_rows import text_rows, token_rows, write_rows
from safetensors.torch import load_file
from stage_rows import RELATED, stage, write_chain
from transformers import AutoModelForSequenceClassification

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Event, read_events
from tunesmith.core.files import folder_hashes, read_json, read_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import METRICS
from tunesmith.data.prepare import load_tables
from tunesmith.data.sides import side_of_run
from tunesmith.models.load import load_model
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.runtime.local import LocalRuntime
from tunesmith.ship.merge import merge_into
from tunesmith.train.loop import Job
from tunesmith.training import build_stage

LORA = "adapt: {kind: lora, rank: 4}"
MULTITASK = "objective: {kind: multitask, sampling_temperature: 2.0}"


def begin(recipe: Path, seen: list[Event] | None = None) -> lifecycle.Work:
    return lifecycle.start(recipe, (), recipe.parent / "runs", () if seen is None else (seen.append,))


def job_of(work: lifecycle.Work, place: int, folder: Path) -> Job:
    return build_stage(work, work.recipe.stages[place], LocalRuntime(work.recipe.runtime), folder, SILENT)


def own_name(name: str) -> str:
    """A base weight's own name, under an adapter too."""
    return name.removeprefix("model.").replace("base_model.model.", "").replace(".base_layer", "")


def test_the_same_adaptation_is_trained_on_and_is_one_adapter(tmp_path: Path) -> None:
    recipe = write_chain(
        tmp_path,
        stage("related", RELATED, LORA, MULTITASK),
        stage("instruct", LORA),
        formats="[safetensors, adapter]",
        dtype="bfloat16",
    )
    seen: list[Event] = []
    work = begin(recipe, seen)
    lifecycle.run_to_release(work)
    assert work.received(work.recipe.stages[1]) == work.base(), "the change stands on the base itself"
    assert not (work.path / "related" / "merged").exists()

    best = load_file(work.path / "related" / "best" / "masters.safetensors")
    job = job_of(work, 1, tmp_path / "again")
    assert best.keys() == job.optimizer.masters.keys()
    assert all(torch.equal(master, best[name]) for name, master in job.optimizer.masters.items())
    moving = dict(job.policy.named_parameters())
    assert all(torch.equal(moving[name], each.bfloat16()) for name, each in best.items()), "rounded as it was"
    assert any((each != 0).any() for name, each in best.items() if "lora_B" in name), "something had been learned"

    fits = [(event.values["stage"], event.values["place"], event.values["of"]) for event in seen if event.kind == "fit"]
    assert fits == [("related", 1, 2), ("instruct", 2, 2)]
    notes = {event.values["code"]: event.values for event in seen if event.kind == "note"}
    assert notes["train.continued"]["earlier"] == "related" and "train.task" in notes
    steps = [event.values for event in seen if event.kind == "step"]
    assert {each["stage"] for each in steps} == {"related", "instruct"}
    assert all(("loss/sums" in each) == (each["stage"] == "related") for each in steps), "tasks are the stage's sources"

    shipped = work.path / "ship" / "adapter"
    assert read_manifest(shipped)["stages"] == [
        "related (LoRA, rank 4, multitask)",
        "instruct (LoRA, rank 4)",
    ]
    weights = load_file(shipped / "adapter_model.safetensors")
    kept = load_file(work.path / "instruct" / "best" / "adapter_model.safetensors")
    assert weights.keys() == kept.keys() and all(torch.equal(weights[name], each) for name, each in kept.items())
    card = (work.path / "release_card.md").read_text("utf-8").replace("\\", "")
    for words in (
        "Stage related",
        "阶段 instruct",
        "trains the change of the stage before on",
        "LoRA, rank 4, multitask",
    ):
        assert words in card, words
    assert "Trained in stages" in (shipped / "README.md").read_text("utf-8")

    tables = load_tables(work.path)
    assert tables.keys() == {"train", "validation", "test", "related-train", "related-validation"}
    ledger = Ledger.load(work.path / "ledger.jsonl")
    assert sorted(row for frame in tables.values() for row in frame["row"]) == ledger.kept_rows()
    assert sum(entry.source in ("sums", "colours") for entry in ledger.entries()) == 40, "each read once"
    plan = read_json(work.path / "plan.json")
    of_stages, together = plan["stages"], plan["forecast"]
    assert isinstance(of_stages, dict) and isinstance(together, dict) and of_stages.keys() == {"related", "instruct"}
    assert together["steps"] == sum(each["steps"] for each in of_stages.values()) == len(steps)
    assert "Stage related" in (work.path / "plan.md").read_text("utf-8")
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


def test_another_adaptation_starts_from_the_merged_change(tmp_path: Path) -> None:
    full = "adapt: {kind: full}"
    recipe = write_chain(tmp_path, stage("related", RELATED, full), stage("instruct", LORA), dtype="bfloat16")
    work = begin(recipe)
    lifecycle.run_to_release(work)
    received = work.received(work.recipe.stages[1])
    assert received.path == work.path / "related" / "merged" and received.sha256 != work.base().sha256
    ended = merge_into(work.load(work.base()), work.base(), work.path / "related" / "best")
    starts = dict(load_model(received.path, dtype=torch.bfloat16).model.named_parameters())
    for name, each in ended.model.named_parameters():
        assert torch.equal(starts[name], each), name
    job = job_of(work, 1, tmp_path / "again")
    found = {
        name.replace(".base_layer", "").removeprefix("model."): each for name, each in job.policy.named_parameters()
    }
    assert all(torch.equal(found[name], each) for name, each in starts.items()), "it learns beside that model"
    stated = read_manifest(work.path / "ship" / "safetensors")
    assert stated["base_sha256"] == work.base().sha256 and stated["base"] == work.base().name
    assert read_json(work.path / "ship" / "safetensors" / "parity.json")["ok"] is True
    assert read_manifest(work.path / "instruct" / "best")["base_sha256"] == received.sha256
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
    told = io.StringIO()
    proof.rehearse_in(work.path, tmp_path / "copy", None, told)
    assert told.getvalue().count('"kind": "step"') == 4, "the short copy of the last stage"

    weights = received.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(TunesmithError, match="hash_differs"):
        lifecycle.load_tuned(work)


KILLED = """
import os, signal, sys
from collections.abc import Callable
from pathlib import Path
from tunesmith import lifecycle

def listen(event):
    if event.kind == "step" and event.values.get("stage") == "instruct" and event.values["step"] == 3:
        os.kill(os.getpid(), signal.SIGKILL)

work = lifecycle.start(Path(sys.argv[1]), (), Path(sys.argv[2]), (listen,))
for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
    stage(work)
"""


@pytest.mark.parametrize("adapts", [(LORA, LORA), ("adapt: {kind: subset, parts: [norm]}", LORA)])
def test_killed_in_the_second_stage_it_resumes_there(adapts: tuple[str, str], tmp_path: Path) -> None:
    recipe = write_chain(tmp_path, stage("related", RELATED, adapts[0]), stage("instruct", adapts[1]))
    whole = begin(recipe)
    trained = (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train)
    for part in trained:
        part(whole)
    script, runs = tmp_path / "killed.py", tmp_path / "broken"
    script.write_text(KILLED, "utf-8")
    ended = subprocess.run([sys.executable, script, recipe, runs], capture_output=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    seen: list[Event] = []
    work = lifecycle.start(recipe, (), runs, (seen.append,))
    assert work.run.stage("train/related") is not None and work.run.stage("train") is None
    for part in trained:
        part(work)
    fits = {event.values["stage"]: event.values["done"] for event in seen if event.kind == "fit"}
    assert fits == {"related": True, "instruct": False}
    assert {event.values["stage"] for event in seen if event.kind == "step"} == {"instruct"}
    assert [event.values["step"] for event in seen if event.kind == "resume"] == [2]
    for name in ("related/best", "instruct/best", "data", *(["related/merged"] if adapts[0] != adapts[1] else [])):
        assert folder_hashes(work.path / name) == folder_hashes(whole.path / name), name
    newest = sorted((whole.path / "instruct").glob("checkpoint-*"))[-1].name
    for file in ("masters.safetensors", "optimizer.safetensors"):
        left, right = (each.path / "instruct" / newest / file for each in (work, whole))
        assert left.read_bytes() == right.read_bytes(), file


CLASSES = """
name: classes
model: {{base: {base}, dtype: float32}}
data:
  task: text_class
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: related
    data: {{task: text_class, sources: [{{path: lengths.jsonl}}]}}
    adapt: {{kind: lora, rank: 4}}
    train: {{epochs: 2, learning_rate: 2e-2, batch_size: 8, max_length: 64}}
  - name: classify
    adapt: {{kind: {kind}}}
    train: {{epochs: 4, learning_rate: 1e-2, batch_size: 8, max_length: 128}}
runtime: {{threads: 1, device: cpu}}
"""


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_texts_with_other_labels_leave_the_head_behind(kind: str, tmp_path: Path) -> None:
    for name, count, split in (("train", 48, "train"), ("validation", 16, "validation"), ("test", 20, "test")):
        write_rows(tmp_path / f"{name}.jsonl", text_rows(count, split))  # type: ignore[arg-type]
    related = [{"text": f"{'very ' * (place % 5)}{place}", "label": f"{place % 5} times"} for place in range(30)]
    write_rows(tmp_path / "lengths.jsonl", related)  # type: ignore[arg-type]
    (tmp_path / "recipe.yaml").write_text(CLASSES.format(base=tiny_encoder(tmp_path / "base"), kind=kind), "utf-8")
    seen: list[Event] = []
    work = begin(tmp_path / "recipe.yaml", seen)
    lifecycle.run_to_release(work)
    first, second = (work.head_of(each) for each in work.recipe.stages)
    assert first is not None and second is not None and work.head == second
    assert first.labels == tuple(f"{place} times" for place in range(5)) and not set(first.labels) & set(second.labels)
    (dropped,) = [event.values for event in seen if event.values.get("code") == "train.head_dropped"]
    assert (dropped["stage"], dropped["labels"]) == ("related", 5)
    received = work.path / "related" / "merged"
    assert "id2label" not in read_json(received / "config.json")
    assert not any(name.startswith("classifier") for name in load_file(received / "model.safetensors"))
    moved = load_file(received / "model.safetensors")
    base = load_file(work.base().path / "model.safetensors")
    query = next(name for name in moved if name.endswith("layer.0.attention.self.query.weight"))
    untouched = next(each for name, each in base.items() if query.endswith(name))
    assert not torch.equal(moved[query], untouched), "the body keeps what it has learned"
    model = AutoModelForSequenceClassification.from_pretrained(
        work.path / "ship" / "safetensors", local_files_only=True
    )
    assert tuple(model.config.id2label.values()) == second.labels
    assert (work.path / "related" / "xray.html").is_file()
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


@pytest.mark.parametrize(("maker", "kind"), [(tiny_encoder, "full"), (tiny_encoder, "lora"), (tiny_chat_model, "lora")])
def test_a_head_goes_on_where_the_rows_are_the_same(maker: Callable[[Path], Path], kind: str, tmp_path: Path) -> None:
    for name, count, split in (("train", 48, "train"), ("validation", 16, "validation"), ("test", 20, "test")):
        write_rows(tmp_path / f"{name}.jsonl", text_rows(count, split))  # type: ignore[arg-type]
    text = CLASSES.format(base=maker(tmp_path / "base"), kind=kind)
    own = "    data: {task: text_class, sources: [{path: lengths.jsonl}]}\n"
    (tmp_path / "recipe.yaml").write_text(text.replace(own, "").replace("max_length: 64", "max_length: 128"), "utf-8")
    seen: list[Event] = []
    work = begin(tmp_path / "recipe.yaml", seen)
    lifecycle.run_to_release(work)
    received = work.path / "related" / "merged"
    assert not [event for event in seen if event.values.get("code") == "train.head_dropped"]
    assert work.load_to_train(work.recipe.stages[1], work.received(work.recipe.stages[1])).new == ()
    best = load_file(work.path / "related" / "best" / "adapter_model.safetensors")
    kept = load_file(received / "model.safetensors")
    (head,) = (name for name in best if name.endswith(("classifier.weight", "score.weight")))
    assert torch.equal(best[head], kept[head.rpartition("model.")[2]])
    assert read_json(work.path / "ship" / "safetensors" / "parity.json")["ok"] is True


@pytest.mark.parametrize("later", ["{kind: supervised}", "ADVERSARIAL"])
def test_a_classifier_of_domains_is_not_handed_on(later: str, tmp_path: Path) -> None:
    """It stands among the masters of its stage, which the next one trains on; its own begins anew."""
    for name, count, split in (("train", 24, "train"), ("validation", 8, "validation"), ("test", 8, "test")):
        write_rows(tmp_path / f"{name}.jsonl", text_rows(count, split))  # type: ignore[arg-type]
    write_rows(tmp_path / "other.jsonl", text_rows(12, seed=2))
    text = CLASSES.format(base=tiny_encoder(tmp_path / "base"), kind="lora, rank: 4").replace(
        "max_length: 64", "max_length: 128"
    )
    first = "    objective: {kind: adversarial, reversal: {}, target_sources: [{path: other.jsonl}]}\n"
    second = first if later == "ADVERSARIAL" else f"    objective: {later}\n"
    own = "    data: {task: text_class, sources: [{path: lengths.jsonl}]}\n"
    text = text.replace(own, first).replace("  - name: classify\n", f"  - name: classify\n{second}")
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    seen: list[Event] = []
    work = begin(tmp_path / "recipe.yaml", seen)
    lifecycle.prepare_data(work)
    lifecycle.train(work)
    assert [event.values["earlier"] for event in seen if event.values.get("code") == "train.continued"] == ["related"]
    best = load_file(work.path / "related" / "best" / "masters.safetensors")
    assert any(name.startswith("own.") for name in best), "the training of its stage needs it"
    masters = job_of(work, 1, tmp_path / "again").optimizer.masters
    handed = {name for name in best if not name.startswith("own.")}
    assert all(torch.equal(masters[name], best[name]) for name in handed)
    assert not any(torch.equal(masters[name], best[name]) for name in masters.keys() - handed if name in best)


HEADS = """
name: heads
model: {{base: {base}, dtype: float32}}
data:
  tasks: {{intents: text_class, tags: token_class}}
  sources: [{train}]
  validation_sources: [{validation}]
  test_sources: [{test}]
stages:
  - name: first
    adapt: {{kind: lora, rank: 4}}
    objective: {objective}
    train: {{epochs: 2, learning_rate: 1e-2, batch_size: 8, max_length: 120}}
  - name: second
    adapt: {adapt}
    objective: {objective}
    train: {{epochs: 2, learning_rate: 1e-3, batch_size: 8, max_length: 120}}
runtime: {{threads: 1, device: cpu}}
"""


@pytest.mark.parametrize(("base", "adapt"), [("encoder", "{kind: full}"), ("decoder", "{kind: subset, parts: [norm]}")])
def test_heads_side_by_side_go_on_over_a_merge(base: str, adapt: str, tmp_path: Path) -> None:
    sources = {}
    for split, count in (("train", 32), ("validation", 8), ("test", 8)):
        for name, make in (("intents", text_rows), ("tags", token_rows)):
            write_rows(tmp_path / f"{name}-{split}.jsonl", make(count, split))  # type: ignore[arg-type]
        sources[split] = ", ".join(f"{{name: {name}, path: {name}-{split}.jsonl}}" for name in ("intents", "tags"))
    model = {"encoder": tiny_encoder, "decoder": tiny_chat_model}[base](tmp_path / "base", spread=0.1)
    objective = "{kind: multitask, task_embeddings: true}"
    text = HEADS.format(base=model, adapt=adapt, objective=objective, **sources)
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    seen: list[Event] = []
    work = begin(tmp_path / "recipe.yaml", seen)
    lifecycle.run_to_release(work)
    assert not [event for event in seen if event.values.get("code") == "train.head_dropped"]
    first, second = work.recipe.stages
    received = work.received(second)
    best = load_file(work.path / "first" / "best" / "adapter_model.safetensors")
    kept = load_file(received.path / "model.safetensors")
    for part in ("score.weight" if base == "decoder" else "classifier.weight", "task_embeddings.weight"):
        (learned,) = (each for name, each in best.items() if name.endswith(part))
        (handed_on,) = (each for name, each in kept.items() if name.endswith(part))
        assert torch.equal(learned, handed_on) and learned.any(), part
    loaded = work.load_to_train(second, received)
    assert loaded.new == () and loaded.head == work.head_of(first)
    ended = merge_into(work.load(work.base()), work.base(), work.path / "first" / "best")
    starts = dict(loaded.model.named_parameters())
    for name, each in ended.model.named_parameters():
        assert torch.equal(starts[name], each), name
    for task in ("intents", "tags"):
        assert read_json(work.path / "ship" / f"safetensors-{task}" / "parity.json")["ok"] is True
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


def test_heads_side_by_side_teach_the_body_first(tmp_path: Path) -> None:
    for name, count, split in (("train", 48, "train"), ("validation", 16, "validation"), ("test", 20, "test")):
        write_rows(tmp_path / f"{name}.jsonl", text_rows(count, split))  # type: ignore[arg-type]
    lengths = [{"text": f"{'very ' * (place % 5)}{place}", "label": f"{place % 5} times"} for place in range(40)]
    write_rows(tmp_path / "lengths.jsonl", lengths)  # type: ignore[arg-type]
    write_rows(tmp_path / "tags.jsonl", token_rows(40, seed=5))
    one, two = "{path: lengths.jsonl, name: lengths}", "{path: tags.jsonl, name: tags}"
    several = f"data: {{tasks: {{lengths: text_class, tags: token_class}}, sources: [{one}, {two}]}}"
    text = CLASSES.format(base=tiny_encoder(tmp_path / "base"), kind="lora")
    text = text.replace(
        "data: {task: text_class, sources: [{path: lengths.jsonl}]}", f"{several}\n    objective: {{kind: multitask}}"
    )
    (tmp_path / "recipe.yaml").write_text(text, "utf-8")
    seen: list[Event] = []
    work = begin(tmp_path / "recipe.yaml", seen)
    lifecycle.run_to_release(work)
    assert read_json(work.path / "related" / "labels.json").keys() == {"tasks"}
    assert [event for event in seen if event.values.get("code") == "train.head_dropped"]
    assert not any("classifier" in name for name in load_file(work.path / "related" / "merged" / "model.safetensors"))
    assert read_json(work.path / "ship" / "safetensors" / "parity.json")["ok"] is True


def test_rows_of_a_stage_that_the_test_asks_are_dropped(tmp_path: Path) -> None:
    asked = "data: {sources: [{path: asked.jsonl, name: asked}]}"
    recipe = write_chain(tmp_path, stage("related", asked, LORA), stage("instruct", LORA))
    train, validation, test = (
        (tmp_path / f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("train", "validation", "test")
    )
    chosen = [*train[:12], *test[:3], validation[0]]
    (tmp_path / "asked.jsonl").write_text("".join(f"{line}\n" for line in chosen), "utf-8")
    work = begin(recipe)
    lifecycle.prepare_data(work)
    reasons = [entry.reason for entry in Ledger.load(work.path / "ledger.jsonl").entries() if entry.source == "asked"]
    assert reasons[-4:] == ["prompt_also_in_test"] * 3 + ["prompt_also_in_validation"]
    written = (work.path / "data_card.md").read_text("utf-8")
    assert "related-train" in written and "related-validation" in written
    assert (work.path / "related" / "xray.html").is_file()
    assert side_of_run(work.path).version.id == work.run.manifest()["data_version"], "of all rows and their settings"


def test_three_stages_of_which_one_is_continued(tmp_path: Path) -> None:
    """The norms, then a LoRA over what they became, then the same LoRA on: it stands where it began."""
    norms = "adapt: {kind: subset, parts: [norm]}"
    again = "replay: {share: 0.25, sources: [{path: sums.jsonl, name: again}]}"
    held = "penalties: {l2_sp: 0.1, ewc: {weight: 5, rows: 4, sources: [{path: colours.jsonl, name: held}]}}"
    recipe = write_chain(
        tmp_path, stage("norms", RELATED, norms), stage("related", RELATED, LORA), stage("instruct", LORA, again, held)
    )
    work = begin(recipe)
    for part in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        part(work)
    _, second, third = work.recipe.stages
    assert work.received(second).path == work.received(third).path == work.path / "norms" / "merged"
    assert (work.path / "related" / "best" / "masters.safetensors").is_file()
    assert not (work.path / "related" / "merged").exists()
    lifecycle.evaluate(work)
    lifecycle.ship(work)
    assert read_json(work.path / "ship" / "safetensors" / "parity.json")["ok"] is True
    assert {"instruct-replay", "instruct-ewc", "norms-train", "related-train"} <= load_tables(work.path).keys()
    first, second_step, *_ = (
        event.values for event in read_events(work.path / METRICS, "step") if event.values["stage"] == "instruct"
    )
    assert first["ewc"] == first["l2_sp"] == 0, "held where the stage started, not where LoRA begins"
    assert float(str(second_step["ewc"])) > 0 and float(str(second_step["l2_sp"])) > 0
    told = [str(event.values["stage"]) for event in read_events(work.path / METRICS, "step")]
    order = [stage.name for stage in work.recipe.stages]
    assert told == sorted(told, key=order.index) and set(told) == set(order)


def test_the_program_tells_which_stage_of_how_many(tmp_path: Path) -> None:
    recipe = write_chain(tmp_path, stage("related", RELATED, LORA), stage("instruct", LORA))
    command = [sys.executable, "-m", "tunesmith", "train", str(recipe), "--runs", str(tmp_path / "runs")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env={**os.environ})
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout + ran.stderr
    assert "Stage 1 of 2: related" in said and "Stage 2 of 2: instruct" in said
    (board,) = (tmp_path / "runs").glob("*/*/tensorboard")
    assert sorted(each.name for each in board.iterdir()) == ["instruct", "related"]
    listed = [sys.executable, "-m", "tunesmith", "runs", "list", "--runs", str(tmp_path / "runs"), "--json"]
    (found,) = json.loads(subprocess.run(listed, capture_output=True, text=True, check=True).stdout)["runs"]
    assert (found["stage"], found["fits"]) == ("train", ["related"])
