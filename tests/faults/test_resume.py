"""What a resume refuses, and in which words: damaged checkpoints (A7), other conditions (A8), a second process (A9)."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from faults_kill import Blow, KillRunner
from faults_victims import command_of
from fits import make_job
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle
from tunesmith.core import conditions
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes, write_manifest
from tunesmith.core.run import list_runs
from tunesmith.messages import render, set_language
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.train.loop import fit

if TYPE_CHECKING:
    from faults_tally import Tally


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1, context=2048)


# ------------------------------------------------------------------------------------------------ A7

DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}
SETTINGS: dict[str, object] = {"epochs": 2.0, "batch_size": 4, "save_steps": 2}


@pytest.mark.case("A7")
def test_a_damaged_checkpoint_is_refused_by_name_and_reason(base: Path, tmp_path: Path, tally: Tally) -> None:
    seen: list[Event] = []
    job = make_job(base, tmp_path / "fit", LocalRuntime(RuntimeSpec(device="cpu", threads=1)), settings=SETTINGS,
                   emitter=Events(None, (seen.append,)))  # fmt: skip
    fit(job, until=4)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "fit", whole)
    files = sorted(path.name for path in (whole / "checkpoint-4").iterdir())
    assert {"manifest.json", "masters.safetensors", "optimizer.safetensors", "state.json"} < set(files)
    for name in files:
        for damage, spoil in DAMAGES.items():
            _put_back(whole, tmp_path / "fit")
            spoil(tmp_path / "fit" / "checkpoint-4" / name)
            seen.clear()
            found = job.checkpoints.newest()
            assert found is not None and found.step == 2, f"{name} {damage}"
            (alarm,) = (event.values for event in seen if event.kind == "alarm")
            assert alarm["checkpoint"] == "checkpoint-4" and name in str(alarm["reason"])
            words = render(TunesmithError(str(alarm["code"]), checkpoint="checkpoint-4", reason=str(alarm["reason"])))
            assert "checkpoint-4" in words.cause and name in words.cause
            tally.count("damaged state files")
    # The older one, from which training went on, gives what the newer one held.
    fit(job, until=4)
    left, right = folder_hashes(tmp_path / "fit" / "checkpoint-4"), folder_hashes(whole / "checkpoint-4")
    del left["state.json"], right["state.json"]
    assert left == right


@pytest.mark.case("A7")
def test_nothing_valid_is_an_error_and_never_a_start_from_zero(base: Path, tmp_path: Path, tally: Tally) -> None:
    def job(seen: list[Event]) -> object:
        runtime = LocalRuntime(RuntimeSpec(device="cpu", threads=1))
        return make_job(base, tmp_path / "fit", runtime, settings=SETTINGS, emitter=Events(None, (seen.append,)))

    seen: list[Event] = []
    fit(job(seen), until=4)  # type: ignore[arg-type]
    shutil.copytree(tmp_path / "fit", tmp_path / "whole")
    for name in ("manifest.json", "masters.safetensors", "optimizer.safetensors", "state.json"):
        for spoil in DAMAGES.values():
            _put_back(tmp_path / "whole", tmp_path / "fit")
            for checkpoint in (tmp_path / "fit").glob("checkpoint-*"):
                spoil(checkpoint / name)
            seen.clear()
            with pytest.raises(TunesmithError) as error:
                fit(job(seen))  # type: ignore[arg-type]
            assert error.value.code == "train.no_valid_checkpoint"
            for language in ("en", "zh"):
                set_language(language)  # type: ignore[arg-type]
                cause = render(error.value).cause
                assert "checkpoint-2" in cause and "checkpoint-4" in cause and name in cause
            assert not [event for event in seen if event.kind == "step"]
            assert len(list((tmp_path / "fit").glob("checkpoint-*"))) == 2, "what is damaged may still be restored"
            tally.count("damaged state files", 2)


def _put_back(whole: Path, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)


# ------------------------------------------------------------------------------------------------ A8


@pytest.fixture(scope="module")
def broken_off(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose run was stopped in its training."""
    folder = tmp_path_factory.mktemp("broken-off")
    recipe = write_tiny_recipe(folder, base)
    work = lifecycle.start(recipe, (), folder / "runs", (_interrupt_at(4),))
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline):
        stage(work)
    with pytest.raises(TunesmithError, match="interrupted"):
        lifecycle.train(work)
    return folder


def _interrupt_at(step: int) -> Callable[[Event], None]:
    def listener(event: Event) -> None:
        if event.kind == "step" and event.values["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listener


@pytest.fixture
def project(broken_off: Path, base: Path, tmp_path: Path) -> Path:
    """A copy of it to change; the base stays where it was."""
    shutil.copytree(broken_off, tmp_path / "project")
    for run in list_runs(tmp_path / "project" / "runs"):
        write_manifest(run.path, {**run.manifest(), "recipe_folder": str(tmp_path / "project")})
    return tmp_path / "project"


@pytest.mark.case("A8")
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("stages.0.train.batch_size=4", "stages.0.train.batch_size: 8 -> 4"),
        ("stages.0.train.seed=7", "stages.0.train.seed: 42 -> 7"),
        ("stages.0.train.learning_rate=0.02", "stages.0.train.learning_rate: 0.01 -> 0.02"),
        ("runtime.threads=2", "runtime.threads: 1 -> 2"),
        ("model.revision=0123abc", 'model.revision: null -> "0123abc"'),
        ("stages.0.train.epochs=3", "stages.0.train.epochs: 2.0 -> 3.0"),
    ],
)
def test_a_changed_setting_is_named_and_stops(project: Path, tally: Tally, override: str, expected: str) -> None:
    with pytest.raises(TunesmithError) as error:
        lifecycle.start(project / "recipe.yaml", [override], project / "runs", ())
    assert error.value.code == "lifecycle.run_differs"
    found = str(error.value.facts["differences"]).split("; ")
    assert expected in found
    assert all(each.split(":")[0].startswith(override.split("=")[0].rpartition(".")[0]) for each in found), found
    for language in ("en", "zh"):
        set_language(language)  # type: ignore[arg-type]
        words = render(error.value)
        assert expected in words.cause and "--new" in words.next_step
    assert len(list_runs(project / "runs")) == 1
    other = lifecycle.start(project / "recipe.yaml", [override], project / "runs", (), new=True)
    assert other.run.stage("data") is None
    tally.count("changed conditions")


@pytest.mark.case("A8")
def test_changed_rows_and_a_changed_base_are_named_and_stop(project: Path, base: Path, tally: Tally) -> None:
    with (project / "tickets" / "train.jsonl").open("a") as rows:
        rows.write(" \n")
    with pytest.raises(TunesmithError) as error:
        lifecycle.start(project / "recipe.yaml", (), project / "runs", ())
    assert error.value.code == "lifecycle.run_differs"
    assert str(error.value.facts["differences"]).startswith("data.sources.0 (tickets/train.jsonl): ")
    tally.count("changed conditions")
    (run,) = list_runs(project / "runs")
    work = lifecycle.reopen(run.path, ())
    for name, change in (("model.safetensors", "base_sha256: "), ("tokenizer_config.json", "base_texts_sha256: ")):
        kept = (base / name).read_bytes()
        manifest = (base / "manifest.json").read_bytes()
        try:
            (base / "manifest.json").unlink()  # a folder from elsewhere has none
            (base / name).write_bytes(kept[:-3] + b"\0\0\0" if name.startswith("model") else kept + b" ")
            with pytest.raises(TunesmithError) as error:
                lifecycle.train(work)
        finally:
            (base / name).write_bytes(kept)
            (base / "manifest.json").write_bytes(manifest)
        assert error.value.code == "lifecycle.base_changed"
        assert str(error.value.facts["differences"]).startswith(change)
        tally.count("changed conditions")


@pytest.mark.case("A8")
def test_other_versions_stop_or_go_on_as_asked_and_stand_on_the_card(
    project: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    now = conditions.installed_versions()
    changed = {**now, "torch": "9.9", "tokenizers": "0.0"}
    monkeypatch.setattr(conditions, "installed_versions", lambda: changed)
    expected = [f"tokenizers: {now['tokenizers']} -> 0.0", f"torch: {now['torch']} -> 9.9"]
    (run,) = list_runs(project / "runs")
    work = lifecycle.reopen(run.path, ())
    with pytest.raises(TunesmithError) as error:
        lifecycle.train(work)
    assert error.value.code == "train.machine_differs"
    assert sorted(str(error.value.facts["differences"]).split("; ")) == expected
    assert "--accept-machine" in render(error.value).next_step

    seen: list[Event] = []
    accepted = replace(work, events=Events(work.path / "metrics.jsonl", (seen.append,)), accept_machine=True)
    lifecycle.run_to_release(accepted)
    (alarm,) = (event.values for event in seen if event.values.get("code") == "train.machine_accepted")
    assert sorted(str(alarm["differences"]).split("; ")) == expected
    for page in ("release_card.md", "release_card.html"):
        text = (work.path / page).read_text("utf-8").replace("\\", "")
        assert "9.9" in text and "train: " in text and "checkpoint-4: " in text, page
    tally.count("changed conditions")


# ------------------------------------------------------------------------------------------------ A9


@pytest.mark.case("A9")
def test_a_second_process_names_the_owner_and_a_dead_owner_is_no_owner(
    runner: KillRunner, project: Path, tally: Tally
) -> None:
    (run,) = list_runs(project / "runs")
    train = command_of("train", run.path, "--json")
    first = runner.do(command_of("train", run.path), Blow(signal.SIGSTOP, after="Continuing from step"))
    assert first.code is None, first.error
    try:
        for command in (train, command_of("run", project / "recipe.yaml", "--runs", project / "runs", "--json")):
            began = time.monotonic()
            second = runner.do(command)
            assert second.code == 2 and time.monotonic() - began < 5
            (told,) = second.facts
            error = told["error"]
            assert isinstance(error, dict) and error["code"] == "core.run_in_use"
            assert str(first.pid) in error["cause"]
            tally.count("second processes")
    finally:
        os.kill(first.pid, signal.SIGKILL)
        _wait_until_dead(first.pid)
    third = runner.do(train)
    assert third.code == 0, third.error


def _wait_until_dead(pid: int) -> None:
    """A process that is killed still holds its files for a moment: until the last of its threads is gone."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
            threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z" and threads <= 1:
            return
        time.sleep(0.01)
    raise AssertionError(f"{pid} lives on")
