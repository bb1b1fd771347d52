"""The whole life cycle on a tiny model: from a recipe to a card, broken off and continued, and tampered with."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tunesmith.work
from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, read_events
from tunesmith.core.files import folder_hashes, read_manifest, write_manifest
from tunesmith.core.run import list_runs, one_at_a_time
from tunesmith.data.samples.tickets import write_tickets
from tunesmith.models.tiny import tiny_chat_model

RECIPE = """
name: 小型-tiny 🎻
model: {{base: {base}, dtype: float32}}
data:
  sources: [{{path: train.jsonl}}]
  validation_sources: [{{path: validation.jsonl}}]
  test_sources: [{{path: test.jsonl}}]
stages:
  - name: instruct
    train: {{epochs: 2, learning_rate: 1e-2, batch_size: 8, max_length: 2048, save_steps: 3}}
evaluate: {{metrics: [exact_match, rouge_l], max_new_tokens: 8, examples: 1}}
ship: {{formats: [safetensors], parity: {{chats: 8}}}}
runtime: {{threads: 1, device: cpu}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    base = tiny_chat_model(tmp_path / "base", spread=0.1, context=2048)
    write_tickets(tmp_path, train=40, validation=8, test=12, seed=1)
    path = tmp_path / "配方.yaml"
    path.write_text(RECIPE.format(base=base), "utf-8")
    return path


def begin(recipe: Path, seen: list[Event] | None = None) -> lifecycle.Work:
    listeners = (seen.append,) if seen is not None else ()
    return lifecycle.start(recipe, (), recipe.parent / "runs", listeners)


def test_a_recipe_becomes_a_run_with_proof(recipe: Path) -> None:
    recipe.write_text(recipe.read_text("utf-8").replace("batch_size: 8", "batch_size: auto"), "utf-8")
    seen: list[Event] = []
    work = begin(recipe, seen)
    verdict = lifecycle.run_to_release(work)
    assert verdict.decision in ("revise", "block"), "a tiny random model is never fit for release"
    for name in (
        "recipe.yaml recipe.lock.yaml manifest.json ledger.jsonl metrics.jsonl data_card.md xray.html loss.svg "
        "release_card.html release_card.md data/train.parquet evaluate/base.json evaluate/tuned.json "
        "instruct/best/adapter_model.safetensors ship/safetensors/model.safetensors ship/safetensors/parity.json"
    ).split():
        assert (work.path / name).is_file(), name
    (start,) = [event.values for event in seen if event.kind == "batch"]
    assert (start["reason"], start["rows"]) == ("start", 8)
    for page in ("plan.md", "release_card.md"):
        text = (work.path / page).read_text("utf-8").replace("batch_size: auto", "batch_size auto")
        assert "batch_size auto" in text and "8 rows" in text and "8 行" in text, page
    assert [event.values["unchanged"] for event in seen if event.kind == "frozen"] == [True]
    (speed,) = (event.values for event in seen if event.kind == "efficiency")
    useful, kernel, waste = (float(str(speed[name])) for name in ("useful_utilisation", "kernel_efficiency", "waste"))
    assert waste > 0.9 and useful == pytest.approx(kernel / waste, abs=1e-3)
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal

    seen.clear()
    again = begin(recipe, seen)
    assert again.path == work.path, "the same recipe over the same files is the same run"
    lifecycle.run_to_release(again)
    skipped = [event.values["stage"] for event in seen if event.kind == "stage_skipped"]
    assert skipped == ["data", "plan", "baseline", "train", "evaluate", "ship"]

    for missing in ("instruct/best", "ship/safetensors", "ship/safetensors/parity.json"):
        aside = (work.path / missing).rename(recipe.parent / "aside")
        with pytest.raises(TunesmithError, match="missing_file"):
            proof.verify(work, replay=False)
        if missing != "instruct/best":
            with pytest.raises(TunesmithError, match="missing_file"):
                lifecycle.make_card(work)
        aside.rename(work.path / missing)
    _refuse_another_runs_folders(work, recipe.parent / "others")

    with (recipe.parent / "train.jsonl").open("a") as rows:
        rows.write(" \n")
    assert begin(recipe).path != work.path, "an edited source is another run"

    weights = work.path / "ship" / "safetensors" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(TunesmithError, match="hash_differs"):
        proof.verify(work, replay=False)

    # A manifest can be made to agree; the gate still sees that this is the base and not the tuned model.
    weights.write_bytes((recipe.parent / "base" / "model.safetensors").read_bytes())
    manifest = read_manifest(weights.parent)
    write_manifest(weights.parent, {**manifest, "files": folder_hashes(weights.parent)})
    with pytest.raises(TunesmithError, match="hash_differs"):
        proof.verify(work, replay=False)
    work.run.record_files(weights.parent / "manifest.json")
    proof.verify(work, replay=False)
    with pytest.raises(TunesmithError, match="parity_failed"):
        proof.verify(work)


def _refuse_another_runs_folders(work: lifecycle.Work, others: Path) -> None:
    """Whole in themselves, and of another run."""
    for name in ("instruct/best", "ship/safetensors"):
        shutil.copytree(work.path / name, others / name)
        manifest = read_manifest(others / name)
        write_manifest(others / name, {**manifest, "base_sha256": "another"})
        (work.path / name).rename(others / "kept")
        shutil.copytree(others / name, work.path / name)
        with pytest.raises(TunesmithError, match="hash_differs"):
            proof.verify(work, replay=False)
        shutil.rmtree(work.path / name)
        (others / "kept").rename(work.path / name)
    shutil.copytree(work.path / "ship/safetensors", work.path / "ship/more")
    with pytest.raises(TunesmithError, match="unknown_file"):
        lifecycle.make_card(work)
    shutil.rmtree(work.path / "ship/more")


def test_a_learned_beginning_answers_while_it_trains_and_is_published_beside_its_base(recipe: Path) -> None:
    text = recipe.read_text("utf-8").replace("formats: [safetensors], ", "").replace("epochs: 2, ", "epochs: 1, ")
    adapt = "adapt: {kind: p-tuning, num_virtual_tokens: 8}\n    train: {early_stopping: {metric: rouge_l, rows: 4}, "
    recipe.write_text(text.replace("train: {epochs", adapt + "epochs"), "utf-8")
    seen: list[Event] = []
    work = begin(recipe, seen)
    lifecycle.run_to_release(work)
    (validation,) = (event.values for event in seen if event.kind == "validation")
    assert "rouge_l" in validation and "loss" in validation
    (frozen,) = (event.values for event in seen if event.kind == "frozen")
    assert frozen["unchanged"] is True
    assert [path.name for path in (work.path / "ship").iterdir()] == ["adapter"]
    assert json.loads((work.path / "ship" / "adapter" / "parity.json").read_text("utf-8"))["ok"] is True
    assert "p-tuning, 8 virtual tokens" in (work.path / "release_card.md").read_text("utf-8").replace("\\", "")


def test_killed_at_any_time_it_ends_as_the_unbroken_run(recipe: Path, tmp_path: Path) -> None:
    work = begin(recipe)
    lifecycle.run_to_release(work)
    command = [sys.executable, "-m", "tunesmith", "run", str(recipe), "--runs", str(tmp_path / "broken")]
    for seconds in (4.0, 1.0):
        victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _wait_for_training(tmp_path / "broken", victim)
        time.sleep(seconds / 10)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert finished.returncode == 0, finished.stderr
    (run,) = list_runs(tmp_path / "broken")
    for folder in ("data", "instruct/best", "ship/safetensors"):
        left, right = folder_hashes(run.path / folder), folder_hashes(work.path / folder)
        for report in ("parity.json", "README.md"):  # these hold seconds and dates
            left.pop(report, None)
            right.pop(report, None)
        assert left == right, folder
    answers = [json.loads((each / "evaluate/tuned.json").read_text())["rows"] for each in (run.path, work.path)]
    assert answers[0] == answers[1]


def _wait_for_training(runs: Path, victim: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and victim.poll() is None:
        for run in list_runs(runs):
            if read_events(run.path / "metrics.jsonl", "step"):
                return
        time.sleep(0.02)


def test_a_base_that_changed_is_refused(recipe: Path) -> None:
    work = begin(recipe)
    lifecycle.prepare_data(work)
    tiny_chat_model(recipe.parent / "base", spread=0.2, context=2048, seed=9)
    with pytest.raises(TunesmithError, match="base_changed"):
        lifecycle.measure_baseline(work)


def test_a_source_edited_before_it_is_read_is_refused(recipe: Path) -> None:
    """The run is named by the rows that it found when it began."""
    work = begin(recipe)
    register, rows = recipe.parent / "dataset_info.json", recipe.parent / "test.jsonl"
    register.write_text("{}")
    with pytest.raises(TunesmithError, match="source_changed"):
        lifecycle.prepare_data(work)
    register.unlink()
    rows.write_bytes(rows.read_bytes() + b" \n")
    with pytest.raises(TunesmithError, match="source_changed"):
        lifecycle.prepare_data(work)
    assert work.run.stage("data") is None and begin(recipe).path != work.path


def test_a_split_that_encoding_empties_is_refused_before_training(recipe: Path) -> None:
    rows = [json.loads(line) for line in (recipe.parent / "validation.jsonl").read_text("utf-8").splitlines()]
    for row in rows:
        row["messages"][-2]["content"] += " ?" * 3000
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (recipe.parent / "validation.jsonl").write_text(text, "utf-8")
    with pytest.raises(TunesmithError) as error:
        lifecycle.prepare_data(begin(recipe))
    assert error.value.code == "data.nothing_left" and error.value.facts["split"] == "validation"


def test_a_damaged_run_stands_in_no_other_recipes_way(recipe: Path) -> None:
    (begin(recipe).path / "manifest.json").write_text("{")
    other = recipe.with_name("other.yaml")
    other.write_text(recipe.read_text("utf-8").replace("小型-tiny 🎻", "other"), "utf-8")
    assert begin(other).recipe.name == "other"
    changed = lifecycle.start(recipe, ["stages.0.train.epochs=1"], recipe.parent / "runs", ())
    assert changed.recipe.name == "小型-tiny 🎻", "nor of one that is called alike"
    with pytest.raises(TunesmithError, match="broken_json"):
        begin(recipe)
    assert lifecycle.start(recipe, (), recipe.parent / "runs", (), new=True).path.is_dir()


def test_a_base_is_found_while_nobody_must_wait(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may take an hour to come over the network."""
    resolve, calls = tunesmith.work.resolve_base, []

    def resolving(*arguments: object, **named: object) -> object:
        with one_at_a_time(recipe.parent / "runs"):
            calls.append(arguments)
        return resolve(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(tunesmith.work, "resolve_base", resolving)
    work = begin(recipe)
    assert len(calls) == 1 and begin(recipe).path == work.path and len(calls) == 1, "not needed for a run that is there"


def test_an_edited_lock_is_refused(recipe: Path) -> None:
    work = begin(recipe)
    lock = work.path / "recipe.lock.yaml"
    lock.write_text(lock.read_text().replace("epochs: 2", "epochs: 9"))
    with pytest.raises(TunesmithError, match="hash_differs"):
        lifecycle.reopen(work.path, ())


def test_two_owners_of_one_run(recipe: Path) -> None:
    work = begin(recipe)
    with work.run.owned():
        assert (work.path / ".owner").read_text() == f"{os.getpid()} {platform.node()}"
        with pytest.raises(TunesmithError, match="run_in_use"), begin(recipe).run.owned():
            pass
    with work.run.owned():
        pass


def test_two_ranks_under_a_launcher_train_one_run(recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(recipe.read_text("utf-8").replace("device: cpu", "device: cpu, kind: distributed"), "utf-8")
    runs = tmp_path / "runs"
    subprocess.run(
        [sys.executable, "-m", "tunesmith", "plan", str(recipe), "--runs", str(runs)],
        check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    (run,) = list_runs(runs)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    # A session of its own: a launcher that is killed would leave its ranks behind.
    command = [*launcher, "-m", "tunesmith", "train", str(run.path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as ranks:
        try:
            assert ranks.wait(timeout=100) == 0
        except BaseException:
            os.killpg(ranks.pid, signal.SIGKILL)
            raise
    assert run.stage("train") is not None
    steps = read_events(run.path / "metrics.jsonl", "step")
    assert [event.values["step"] for event in steps] == list(range(1, 7)), "40 rows, windows of 2 x 8, 2 epochs"
    assert (run.path / "instruct" / "best" / "adapter_model.safetensors").is_file()
