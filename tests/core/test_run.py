"""The run directory: its manifest, its stages, and that one process at a time holds it."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import ASIDE, sha256_file, write_atomic
from tunesmith.core.run import Run, list_runs, one_at_a_time

HASH = "abcdef0123456789"
HOLD = """
import sys, time
from pathlib import Path
from tunesmith.core.run import Run
with Run(Path(sys.argv[1])).owned():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run.create(tmp_path / "runs", "小 run", HASH, {"base": "tiny"})
    write_atomic(run.path / "recipe.lock.yaml", "name: x\n")
    return run


def test_a_new_run_says_what_it_is(run: Run) -> None:
    manifest = run.manifest()
    assert manifest["recipe_sha256"] == HASH and manifest["base"] == "tiny" and manifest["stages"] == {}
    versions = manifest["versions"]
    assert isinstance(versions, dict) and versions["torch"] != "not installed"
    assert run.path.parent.name == "小 run" and run.path.name.endswith("-abcdef01")
    assert Run.open(run.path).path == run.path
    assert [each.path for each in list_runs(run.path.parents[1])] == [run.path]


def test_runs_of_one_second_do_not_share_a_folder(tmp_path: Path) -> None:
    paths = {Run.create(tmp_path, "x", HASH).path for _ in range(5)}
    assert len(paths) == 5


@pytest.mark.parametrize("missing", ["manifest.json", "recipe.lock.yaml"])
def test_half_a_run_is_none(run: Run, missing: str) -> None:
    (run.path / missing).unlink()
    with pytest.raises(TunesmithError, match="not_a_run"):
        Run.open(run.path)
    assert list_runs(run.path.parents[1]) == []


def test_a_stage_is_done_with_its_files_and_its_key(run: Run) -> None:
    write_atomic(run.path / "data" / "a", "x")
    assert run.stage("data") is None
    run.finish_stage("data", run.path / "data" / "a", rows=3)
    facts = run.stage("data")
    assert facts is not None and facts["rows"] == 3
    assert run.manifest()["files"] == {"data/a": sha256_file(run.path / "data" / "a")}
    write_atomic(run.path / "manifest.json", '{"stages": []}')
    with pytest.raises(TunesmithError, match="broken_json"):
        run.stage("data")


def held_by_another(run: Run) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_one_process_holds_a_run_and_its_death_frees_it(run: Run) -> None:
    other = held_by_another(run)
    with other:
        with pytest.raises(TunesmithError) as error, run.owned():
            pytest.fail("held twice")
        assert error.value.code == "core.run_in_use" and error.value.facts["pid"] == str(other.pid)
        other.send_signal(signal.SIGKILL)
    with run.owned():
        assert (run.path / ".owner").read_text() == f"{os.getpid()} {platform.node()}"


@pytest.mark.parametrize(
    "left",
    ["", "1", str(os.getpid()), f"{os.getppid()} {platform.node()}", "7 elsewhere", "9" * 20, "rubbish\0"],
    ids=["nothing", "init", "own number", "parent", "another machine's", "no number", "rubbish"],
)
def test_what_a_dead_owner_wrote_holds_nothing(run: Run, left: str) -> None:
    """Its number may be empty, a living stranger's by now, or ours: only the lock counts."""
    (run.path / ".owner").write_text(left)
    with run.owned():
        pass


def test_a_run_is_not_held_twice_by_one_process_and_freed_after_an_error(run: Run) -> None:
    with pytest.raises(ValueError, match="inside"), run.owned():
        with pytest.raises(TunesmithError, match="run_in_use"), Run(run.path).owned():
            pytest.fail("held twice")
        raise ValueError("inside")
    with run.owned():
        pass


def test_rubbish_goes_when_the_run_is_held_and_never_by_looking(run: Run) -> None:
    rubbish = run.path / f"{ASIDE}left"
    rubbish.mkdir()
    Run.open(run.path)
    assert rubbish.exists(), "whoever only reads must not touch what an owner may be writing"
    with run.owned():
        assert not rubbish.exists()


def test_who_starts_a_run_locks_a_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock of a folder would hold on one machine alone where others see it too, as on NFS."""
    monkeypatch.setattr(fcntl, "flock", no_folder(fcntl.flock))
    runs = tmp_path / "deep" / "down" / "runs"
    with one_at_a_time(runs):
        (runs / ".starting").chmod(0o600)  # of a killed one
    assert not runs.exists()
    with one_at_a_time(runs):
        (runs / "a").mkdir()
    assert [each.name for each in runs.iterdir()] == ["a"]


def no_folder(flock: Callable[[int, int], None]) -> Callable[[int, int], None]:
    def checked(descriptor: int, operation: int) -> None:
        assert stat.S_ISREG(os.fstat(descriptor).st_mode)
        flock(descriptor, operation)

    return checked


def test_runs_are_listed_by_age_across_names_and_found_by_name_and_hash(tmp_path: Path) -> None:
    folders = ("b/20260101-000000-abcdef01", "a [x]/20260102-000000-abcdef01-2", "b/20260103-000000-00000000")
    for each in folders:
        write_atomic(tmp_path / each / "recipe.lock.yaml", "name: x\n")
        write_atomic(tmp_path / each / "manifest.json", "damaged")
    assert [run.path for run in list_runs(tmp_path)] == [tmp_path / each for each in folders]
    assert [run.path for run in list_runs(tmp_path, "b", HASH)] == [tmp_path / folders[0]]
    assert [run.path for run in list_runs(tmp_path, "a [x]", HASH)] == [tmp_path / folders[1]]
