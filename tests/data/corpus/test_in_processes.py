"""A corpus in processes of this machine: the bytes of threads, and clear words where a process dies."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file
from tunesmith.data.corpus.build import build_corpus
from tunesmith.data.corpus.executors import Executor, InThreads
from tunesmith.data.corpus.in_processes import in_processes
from tunesmith.recipe.specs.data import DataSpec

PIECE = 4000


@pytest.fixture(scope="module")
def two() -> Iterator[Executor]:
    """Two processes for all tests: they take a second to start."""
    with in_processes(2) as executor:
        yield executor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(3)
    texts = [" ".join(f"word{draw.randrange(900)}" for _ in range(30)) for _ in range(120)]
    texts = [f"{each} mail person{place % 18}@example.org" for place, each in enumerate(texts)]
    texts += [*texts[10:20], *(f"{each} and more" for each in texts[20:30])]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": each}) + "\n" for each in texts), "utf-8")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n' * 2)
    return tmp_path


def build(folder: Path, out: str, executor: Executor, source: str = "rows.jsonl", piece: int = PIECE) -> dict[str, str]:
    """The hashes of the files of a corpus."""
    clean = {"near_duplicates": 0.7, "pii": "mask", "filter": {"rules": ["too_short", "repetition"]}}
    spec = DataSpec.model_validate({"rows": "text", "sources": [{"path": source}], "clean": clean})
    build_corpus(spec, folder, folder / out, executor, piece_bytes=piece)
    files = (path for path in sorted((folder / out).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder / out)): sha256_file(path) for path in files}


def test_processes_make_the_same_bytes_as_threads(folder: Path, two: Executor) -> None:
    threads = build(folder, "threads", InThreads(2))
    assert sum("part-" in name for name in threads) > 8, "several parts"
    assert build(folder, "processes", two) == threads


def test_an_error_of_a_part_is_the_same_error_here(folder: Path, two: Executor) -> None:
    codes = []
    for name, executor in (("threads", InThreads(2)), ("processes", two)):
        with pytest.raises(TunesmithError) as caught:
            build(folder, name, executor, "latin.jsonl", piece=20)
        codes.append((caught.value.code, caught.value.facts))
    assert codes[0] == codes[1]
    assert codes[0][0] == "data.wrong_encoding"


def test_an_error_goes_from_process_to_process_with_its_facts() -> None:
    error = TunesmithError("data.empty_file", path="a 文件.jsonl", rows=0)
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.facts, str(again)) == (error.code, error.facts, str(error))


DYING = """
import os
from tunesmith.core.errors import TunesmithError
from tunesmith.data.corpus.in_processes import in_processes
if __name__ == "__main__":
    try:
        with in_processes(2) as executor:
            executor.map(os._exit, [9] * 20_000)
    except TunesmithError as error:
        print(error.code)
"""


def test_a_process_that_dies_is_said_however_many_parts_wait(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING, "utf-8")
    ran = subprocess.run([sys.executable, tmp_path / "dying.py"], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "corpus.process_died\n", ran.stderr


def test_behind_an_error_nothing_runs_still(two: Executor) -> None:
    began = time.monotonic()
    with pytest.raises(TypeError):
        two.map(time.sleep, ["no seconds", 1.5, 1.5])  # type: ignore[list-item]
    took = time.monotonic() - began
    assert two.map(time.sleep, [0.0, 0.0]) == [None, None]
    assert took > 1, "who began it waits for what was under way"


def test_a_single_item_needs_no_process(two: Executor) -> None:
    assert two.map(os.getpgid, [0]) == [os.getpgid(0)]
    with in_processes(1) as executor:
        assert isinstance(executor, InThreads)


SLEEPERS = """
import time
from tunesmith.data.corpus.in_processes import in_processes
if __name__ == "__main__":
    with in_processes(2) as executor:
        print("ready", flush=True)
        executor.map(time.sleep, [60, 60])
"""


def test_a_killed_build_takes_its_processes_along(tmp_path: Path) -> None:
    (tmp_path / "sleepers.py").write_text(SLEEPERS, "utf-8")
    command = [sys.executable, tmp_path / "sleepers.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == "ready\n"
        children = _wait_for(lambda: [each for each in psutil.Process(parent.pid).children() if _works(each)], 2)
        parent.send_signal(signal.SIGKILL)
    gone, left = psutil.wait_procs(children, timeout=20)
    assert not left and len(gone) == 2


def _works(process: psutil.Process) -> bool:
    return any("spawn_main" in word for word in process.cmdline())


def _wait_for(look: Callable[[], list[psutil.Process]], count: int) -> list[psutil.Process]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = look()
        if len(found) == count:
            time.sleep(2)  # so that they are past their imports
            return found
        time.sleep(0.05)
    raise AssertionError("the processes did not start")
