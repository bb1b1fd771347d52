"""Which checkpoints are kept: the newest whole ones and the best, whatever the steps are and even if a delete fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from faults_tally import Tally
from fits import make_job

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import ASIDE, verify_folder
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.train.checkpoint import checkpoint_paths, checkpoint_step
from tunesmith.train.loop import Job, fit

Make = Callable[..., Job]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def make(base: Path, tmp_path: Path) -> Make:
    """A fit of 7 steps in `tmp_path/fit` whose losses in validation are given."""

    def making(losses: Iterator[float], **settings: object) -> Job:
        runtime = LocalRuntime(RuntimeSpec(device="cpu", threads=1))
        wanted = {"max_steps": 7, "epochs": 9.0, "batch_size": 2, **settings}
        job = make_job(base, tmp_path / "fit", runtime, settings=wanted, rows=4)
        return replace(job, validate=lambda: {"loss": next(losses)})

    return making


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints, each of them whole."""
    for path in checkpoint_paths(folder):
        verify_folder(path)
    return [checkpoint_step(path) for path in checkpoint_paths(folder)]


def best_step(folder: Path) -> object:
    return verify_folder(folder / "best")["step"]


SCHEDULES = {
    "saved and validated apart": ({"eval_steps": 2, "save_steps": 3}, (2, 3, 4, 6, 7), (2, 4, 6, 7)),
    "saved more often": ({"eval_steps": 4, "save_steps": 1}, (1, 2, 3, 4, 5, 6, 7), (4, 7)),
    "validated more often": ({"eval_steps": 1, "save_steps": 5}, (1, 2, 3, 4, 5, 6, 7), (1, 2, 3, 4, 5, 6, 7)),
    "neither ever": ({"eval_steps": 50, "save_steps": 50}, (7,), (7,)),
}


@pytest.mark.case("B3")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_newest_and_the_best_are_kept(make: Make, tmp_path: Path, schedule: str, tally: Tally) -> None:
    settings, saved, validated = SCHEDULES[schedule]
    places = {0, len(validated) // 2, len(validated) - 1}
    tries = [(limit, place) for limit in (1, 2) for place in sorted(places)]
    for limit, place in tries if tally.full else tally.random.sample(tries, 1):
        shutil.rmtree(tmp_path / "fit", ignore_errors=True)
        losses = [1.0 + abs(number - place) for number in range(len(validated))]
        fit(make(iter(losses), save_total_limit=limit, **settings))
        tally.count("rotations", len(saved))
        assert steps(tmp_path / "fit") == list(saved[-limit:])
        assert best_step(tmp_path / "fit") == validated[place]
        found = make(iter(losses), save_total_limit=limit, **settings).checkpoints.newest()
        assert found is not None and found.step == 7


@pytest.mark.case("B3")
@pytest.mark.parametrize("refused", ["rename", "rmtree"])
@pytest.mark.parametrize("limit", [1, 2])
def test_a_delete_that_fails_stops_nothing(
    make: Make, tmp_path: Path, limit: int, refused: str, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    rename = Path.rename

    def refuse(path: Path, *arguments: Path) -> Path:
        if path.name.startswith("checkpoint-"):
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, *arguments)

    losses = [3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0]
    with monkeypatch.context() as patch:
        if refused == "rename":
            patch.setattr(Path, "rename", refuse)
        else:
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        fit(make(iter(losses), save_total_limit=limit, eval_steps=1), until=5)
    tally.count("deletes failed", 5 - limit)
    assert steps(tmp_path / "fit")[-limit:] == [4, 5][-limit:] and best_step(tmp_path / "fit") == 2
    fit(make(iter(losses), save_total_limit=limit, eval_steps=1))
    assert steps(tmp_path / "fit") == [6, 7][-limit:] and best_step(tmp_path / "fit") == 2
    assert not list((tmp_path / "fit").glob(f"{ASIDE}*")) or refused == "rmtree"


@pytest.mark.case("B3")
@pytest.mark.parametrize("limit", [1, 2])
def test_a_damaged_one_that_cannot_be_removed_takes_nobodys_place(
    make: Make, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    losses = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    fit(make(iter(losses), save_total_limit=2, eval_steps=1), until=6)
    (tmp_path / "fit" / "checkpoint-6" / "masters.safetensors").write_bytes(b"torn")
    rename = Path.rename

    def refuse(path: Path, *arguments: Path) -> Path:
        if path.name == "checkpoint-6":
            raise PermissionError(13, "Permission denied", str(path))
        return rename(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        job = make(iter(losses), save_total_limit=limit, save_steps=50, eval_steps=50)
        found = job.checkpoints.newest()
        assert found is not None and found.step == 5
        for step in (5, 5):  # saved again where it went on, as a signal does
            job.checkpoints.save(replace(found, step=step))
        tally.count("deletes failed", 2)
        again = job.checkpoints.newest()
    assert again is not None and again.step == 5, "the damaged one did not push the whole one out"


@pytest.mark.case("B1")
@pytest.mark.parametrize(("limit", "every", "together"), [(2, 1, 3), (100, 50, 1), (100, 3, 3)])
def test_too_little_space_is_said_before_the_first_step(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally, limit: int, every: int, together: int
) -> None:
    """What is asked for is enough for the whole training, and with one byte less it does not begin."""
    settings = {"save_total_limit": limit, "save_steps": every, "eval_steps": every}
    whole = make(iter([1.0] * 9), **settings)
    state = 2 * sum(each.nbytes for each in whole.optimizer.masters.values())
    asked = together * (state + whole.optimizer.coming_bytes) + state
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=asked - 1))
        with pytest.raises(TunesmithError) as error:
            fit(whole)
        assert error.value.code == "core.too_little_space"
        assert error.value.facts["needed_mb"] == -(-asked // 2**20) and error.value.facts["free_mb"] == 0
        assert not (tmp_path / "fit").exists(), "nothing was written"
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=asked))
        result = fit(make(iter([1.0] * 9), **settings))
    tally.count("free spaces tried", 2)
    assert result.progress.step == 7
