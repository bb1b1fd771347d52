"""Names of runs, of files with rows and of folders with models: they work, or the rule that they break is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from faults_tally import Tally
from fits import examples, make_job
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.run import list_runs
from tunesmith.messages import render
from tunesmith.models.load import resolve_base
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.recipe.specs.ship import ParityLimits
from tunesmith.runtime.local import LocalRuntime
from tunesmith.ship.publish import Shipping, ship_formats
from tunesmith.train.loop import fit

NAMES = [
    "客服微调",
    "two words",
    "🙂🚀",
    "👩‍👩‍👧",
    "-rf",
    "$(touch x); `id`",
    "a'b\"c",
    "a: b # c",
    "100%",
    "CON",
    "nul.txt",
    "COM1",
    "con ",
    "ends.",
    "a|b*c?<d>",
    "\u202egpj.exe",
    "\u200fשלום",
    "a\u200bb",
    "e\u0301",
    "a\u2028b",
    "~",
    ".hidden",
    " before",
    "a" * 255,
    "字" * 85,
    "🙂" * 63,
]
"""Each is a name that Linux allows, not longer than the 255 bytes that it allows."""

RULES = {
    "\u202egpj.exe": "signs that nobody sees",
    "\u200fשלום": "signs that nobody sees",
    "a\u200bb": "signs that nobody sees",
    "a\u2028b": "signs that nobody sees",
    ".hidden": "begin with a dot",
    " before": "begin or end with a blank",
    "con ": "begin or end with a blank",
}
"""Names that a run cannot have, and words of the rule. A run's name has 80 characters at most besides."""

IMPOSSIBLE: Mapping[str, str] = {
    "": "1,80",
    ".": "begin with a dot",
    "..": "begin with a dot",
    "../up": "does not have the form",
    "/root": "does not have the form",
    "a\\b": "does not have the form",
    "a\0b": "does not have the form",
    "a\nb": "does not have the form",
    "字" * 80 + "🙂" * 5: "does not have the form",
    "🙂" * 80: "255 bytes",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.2, heads=2)


def cut(name: str, suffix: str) -> str:
    """The name with a suffix, in 255 bytes."""
    return name.encode()[: 255 - len(suffix)].decode("utf-8", "ignore") + suffix


def rename(recipe: Path, name: str) -> None:
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("name: tiny", f"name: {json.dumps(name)}", 1), "utf-8")


@pytest.mark.case("B4")
def test_a_run_is_called(base: Path, tmp_path: Path, tally: Tally) -> None:
    fitting = [name for name in NAMES if name not in RULES and len(name) <= 80]
    for number, name in enumerate(tally.random.sample(fitting, tally.amount(4, len(fitting)))):
        recipe, runs = write_tiny_recipe(tmp_path / f"project-{number}", base, rows=(8, 2, 2)), tmp_path / str(number)
        rename(recipe, name)
        work = lifecycle.start(recipe, [], runs, ())
        with work.run.owned():
            lifecycle.prepare_data(work)
        (found,) = list_runs(runs)
        assert found.path.parent.name == name and found.manifest()["name"] == name
        assert lifecycle.start(recipe, [], runs, ()).path == found.path
        proof.verify(work, replay=False)
        tally.count("names")


@pytest.mark.case("B4")
def test_a_run_cannot_be_called(base: Path, tmp_path: Path, tally: Tally) -> None:
    too_long = {name: "1,80" for name in NAMES if len(name) > 80}
    for name, rule in {**RULES, **IMPOSSIBLE, **too_long}.items():
        recipe = write_tiny_recipe(tmp_path / "project", base, rows=(8, 2, 2))
        rename(recipe, name)
        with pytest.raises(TunesmithError) as error:
            lifecycle.start(recipe, [], tmp_path / "runs", ())
        assert error.value.code == "recipe.bad_value" and rule in render(error.value).cause, name
        assert not (tmp_path / "runs").exists()
        tally.count("names")


@pytest.mark.case("B4")
@pytest.mark.parametrize("as_folder", [False, True])
def test_rows_lie_in_a_file_called(base: Path, tmp_path: Path, as_folder: bool, tally: Tally) -> None:
    recipe = write_tiny_recipe(tmp_path / "project", base, rows=(4, 2, 2))
    text = recipe.read_text("utf-8")
    for number, name in enumerate(tally.random.sample(NAMES, tally.amount(4, len(NAMES)))):
        file = cut(name, ".jsonl")
        path = f"rows/{cut(name, '')}/{file}" if as_folder else file
        (recipe.parent / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe.parent / "tickets" / "train.jsonl", recipe.parent / path)
        recipe.write_text(text.replace("tickets/train.jsonl", json.dumps(path), 1), "utf-8")
        work = lifecycle.start(recipe, [], tmp_path / f"runs-{number}", ())
        lifecycle.prepare_data(work)
        assert {each.origin.source for each in work.examples("train")} == {path}
        proof.verify(work, replay=False)
        tally.count("names")


@pytest.mark.case("B4")
def test_rows_lie_in_a_file_whose_name_is_no_text(base: Path, tmp_path: Path, tally: Tally) -> None:
    recipe = write_tiny_recipe(tmp_path / "project", base, rows=(4, 2, 2))
    folder = recipe.parent / "rows"
    folder.mkdir()
    odd = os.fsencode(folder) + b"/caf\xe9.jsonl"
    shutil.copyfile(recipe.parent / "tickets" / "train.jsonl", odd)
    recipe.write_text(recipe.read_text("utf-8").replace("tickets/train.jsonl", "rows"), "utf-8")
    work = lifecycle.start(recipe, [], tmp_path / "runs", ())
    with pytest.raises(TunesmithError) as error:
        lifecycle.prepare_data(work)
    assert error.value.code == "data.name_no_text" and "caf" in render(error.value).cause
    tally.count("names")


@pytest.mark.case("B4")
@pytest.mark.parametrize("name", ["a" * 256, "a\0b", "字" * 86, "/".join(["a" * 200] * 30)])
@pytest.mark.parametrize("key", ["model.base", "data.sources.0.path"])
def test_a_path_that_no_system_can_have(base: Path, tmp_path: Path, key: str, name: str, tally: Tally) -> None:
    recipe = write_tiny_recipe(tmp_path / "project", base, rows=(4, 2, 2))
    with pytest.raises(TunesmithError) as error:
        work = lifecycle.start(recipe, [f"{key}={json.dumps(f'./{name}')}"], tmp_path / "runs", ())
        lifecycle.prepare_data(work)
    assert render(error.value).cause
    tally.count("names")


@pytest.mark.case("B4")
def test_a_model_lies_in_a_folder_called(base: Path, tmp_path: Path, tally: Tally) -> None:
    """Trained, saved, merged, published and described from there."""
    chosen = tally.random.sample(NAMES, tally.amount(4, len(NAMES)))
    chats = [each.messages for each in examples(2)]
    runtime = LocalRuntime(RuntimeSpec(device="cpu", threads=1))
    for number, name in enumerate(chosen):
        folder = tmp_path / "models" / name
        shutil.copytree(base, folder)
        stage = tmp_path / str(number) / "instruct"
        fit(make_job(folder, stage, runtime, settings={"max_steps": 1}, rows=4))
        run = tmp_path / str(number) / "run"
        limits = ParityLimits(chats=2)
        (artefact,) = ship_formats(
            Shipping(run, resolve_base(str(folder)), stage / "best", chats, None, limits), ["safetensors"]
        )
        head = (artefact.path / "README.md").read_text("utf-8").split("---\n")[1]
        assert yaml.safe_load(head)["base_model"] == name
        tally.count("names")
