"""The power is cut after every file operation: what was not synced is lost, and what is found is whole or not taken."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_files import NAMES
from faults_ground import Ground
from faults_power import MODELS, Disk, Model, read_trace
from faults_shim import Fault
from faults_tally import Tally

Grounds = Callable[[str], Ground]
pytestmark = pytest.mark.timeout(1800)

SLICE = {"checkpoint": 3, "rows": 2, "export": 3, "records": 4, "corpus": 3, "collected": 3, "pictures": 2}


@pytest.mark.case("A3")
@pytest.mark.parametrize("name", NAMES)
def test_the_power_is_cut(grounds: Grounds, name: str, tally: Tally, tmp_path: Path) -> None:
    ground = grounds(name)
    ground.restore()
    disk = Disk(ground.live)
    outcome = ground.work(Fault("trace", trace=str(tmp_path / "trace")))
    assert outcome.well
    kept = tmp_path / "kept"
    shutil.copytree(ground.live, kept)
    operations = list(read_trace(tmp_path / "trace"))
    last = len(operations)
    chosen = range(1, last + 1) if tally.full else tally.random.sample(range(1, last), SLICE[name])
    for number, operation in enumerate(operations, start=1):
        disk.do(operation)
        for model in MODELS if number in chosen or number == last else ():
            _cut(ground, disk, model, tally.random, finished=number == last)
            tally.count("power cuts")
    assert disk.matches(kept), "the simulation has seen everything"


def _cut(ground: Ground, disk: Disk, model: Model, chance: random.Random, *, finished: bool) -> None:
    shutil.rmtree(ground.live)
    disk.after_the_cut(ground.live, model, chance)
    ground.check()
    found = ground.check_recovered()
    if finished:
        assert found == ground.new, "what was reported as done is there"
