"""Several processes want one run at the same moment: one gets it, the others are told who has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults_tally import Tally

from tunesmith.core.run import Run

TOGETHER = 6

WAITING = """
import json, os, sys, time
from pathlib import Path
from tunesmith.core.errors import TunesmithError
from tunesmith.core.run import Run, list_runs, one_at_a_time
print("ready", flush=True)
moment, path = float(sys.stdin.readline()), Path(sys.argv[1])
time.sleep(max(0, moment - time.time()))
"""
HOLDING = """
try:
    with Run(path).owned():
        time.sleep(0.3)
        print(json.dumps(["held", os.getpid()]))
except TunesmithError as error:
    print(json.dumps([error.code, int(error.facts["pid"])]))
"""
STARTING = """
with one_at_a_time(path):
    runs = list_runs(path) or [Run.create(path, "same", "0123456789", files={"recipe.lock.yaml": b"name: same"})]
print(json.dumps([str(run.path) for run in runs]))
"""


def at_once(program: str, path: Path) -> list[list[object]]:
    """What `TOGETHER` processes answer that do the same at the same moment."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WAITING + program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for _ in range(TOGETHER)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    moment = time.time() + 0.05
    told: list[list[object]] = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{moment}\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate(timeout=60)
        told.append(json.loads(out))
    return told


@pytest.mark.case("A9")
def test_one_holds_the_run_and_the_others_name_it(tmp_path: Path, tally: Tally) -> None:
    run = Run.create(tmp_path, "run", "0123456789")
    for _ in range(tally.amount(2, 20)):
        (run.path / ".owner").write_text("99999999")  # of one that was killed
        told = at_once(HOLDING, run.path)
        tally.count("processes", TOGETHER)
        (holder,) = (pid for word, pid in told if word == "held")
        assert sorted(word for word, _ in told if word != "held") == ["core.run_in_use"] * (TOGETHER - 1)
        assert {pid for _, pid in told} == {holder}


@pytest.mark.case("A9")
def test_started_at_the_same_moment_they_find_one_run(tmp_path: Path, tally: Tally) -> None:
    for number in range(tally.amount(2, 20)):
        told = at_once(STARTING, tmp_path / str(number) / "runs")
        tally.count("processes", TOGETHER)
        assert len({str(paths) for paths in told}) == 1 and len(told[0]) == 1
