"""A new user's first recipe: `tunesmith init`, then `tunesmith run` as it says, for every task."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from tiny_project import Program

from tunesmith.cli.init import ROWS, TRAIN_ROWS
from tunesmith.models.tiny import tiny_encoder
from tunesmith.recipe.load import load_recipe


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", ROWS)
def test_a_recipe_and_its_rows_are_written_once(call: Program, task: str, language: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    said = call("init", folder, "--task", task, "--lang", language)
    assert said.code == 0 and f"tunesmith run {folder / 'recipe.yaml'}" in said.out
    assert str(TRAIN_ROWS[task] + 96 + 200) in said.out and ("配方" in said.out) == (language == "zh")
    data = load_recipe(folder / "recipe.yaml").data
    for source in (*data.sources, *data.validation_sources, *data.test_sources):
        assert (folder / source.path).is_file()
    again = call("init", folder, "--task", task, "--json")
    assert again.code == 2 and again.error == "recipe.exists"


@pytest.mark.parametrize("name", ["my project", "盘 🎈", "我的项目", "it's"])
def test_what_is_said_to_be_run_can_be_copied_into_a_shell(call: Program, name: str, tmp_path: Path) -> None:
    said = call("init", tmp_path / name)
    line = next(line for line in said.out.splitlines() if "tunesmith run" in line)
    words = shlex.split(line.partition("tunesmith run ")[2])
    assert words == [str(tmp_path / name / "recipe.yaml")]
    assert "'" in line or name == "我的项目", "quotes where a shell needs them, and nowhere else"


def test_an_unknown_task_is_refused(call: Program, tmp_path: Path) -> None:
    refused = call("init", tmp_path / "project", "--task", "poems", "--json")
    assert refused.code == 2 and refused.error == "cli.bad_value"
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize(("task", "metric"), [("text_class", "accuracy"), ("token_class", "entity_f1")])
def test_the_recipe_runs_as_a_new_user_runs_it(call: Program, task: str, metric: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    assert call("init", folder, "--task", task).code == 0
    for split, rows in (("train", 64), ("validation", 8), ("test", 16)):
        path = folder / ROWS[task] / f"{split}.jsonl"  # type: ignore[index]
        path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:rows]), "utf-8")
    base = tiny_encoder(tmp_path / "base", spread=0.1)
    tiny = [f"model.base={base}", "stages.0.train.epochs=2", "stages.0.train.learning_rate=2e-3", "runtime.threads=1"]
    settings = [part for each in tiny for part in ("--set", each)]
    done = call("run", folder / "recipe.yaml", "--runs", tmp_path / "runs", "--json", *settings)
    assert done.code == 0, done.err
    metrics = done.json["metrics"]
    assert isinstance(metrics, dict) and set(metrics["tuned"]) >= {metric}
    run = Path(str(done.json["run"]))
    fates = [json.loads(line) for line in (run / "ledger.jsonl").read_text("utf-8").splitlines()]
    assert not [each for each in fates if each.get("fate") == "dropped"], "every sample row is learned"
    assert (run / "ship" / "safetensors" / "model.safetensors").is_file()
