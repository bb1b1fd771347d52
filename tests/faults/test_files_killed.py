"""Killed at every file operation: what was there or what was coming is whole, and the next start needs no hand."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from faults_files import NAMES, RECOVERED_BY_WORK
from faults_ground import Ground
from faults_shim import Fault
from faults_tally import Tally

Grounds = Callable[[str], Ground]
pytestmark = pytest.mark.timeout(1800)

# A slice takes this many operations of each scenario, evenly spread from a seeded start.
SLICE = {"checkpoint": 4, "rows": 3, "export": 3, "records": 4, "collected": 3, "corpus": 3, "pictures": 2}


def some(tally: Tally, operations: int, few: int) -> list[int]:
    """Numbers of operations to try: all, or `few` of them."""
    if tally.full:
        return list(range(1, operations + 1))
    apart = max(1, operations // few)
    return list(range(1 + tally.random.randrange(apart), operations + 1, apart))


@pytest.mark.case("A2")
@pytest.mark.parametrize("name", NAMES)
def test_killed_in_the_work_and_again_in_the_recovery_from_it(grounds: Grounds, name: str, tally: Tally) -> None:
    ground = grounds(name)
    for number in some(tally, ground.operations, SLICE[name]):
        ground.restore()
        assert ground.work(Fault("kill", number)).signal == signal.SIGKILL
        tally.count("kills at a file operation")
        found = ground.check()
        assert found.keys() >= ground.old.keys() & ground.new.keys(), "what is replaced is there at every moment"
        ground.keep()
        _killed_in_the_recovery(ground, tally)
        ground.back()
        ground.check_recovered()
        ground.finish()


def _killed_in_the_recovery(ground: Ground, tally: Tally) -> None:
    steps = range(1, ground.recover().operations + 1)  # none where nothing was left to mend
    few = len(steps) if tally.full and ground.name not in RECOVERED_BY_WORK else 1
    for step in sorted(tally.random.sample(steps, min(few, len(steps)))):
        ground.back()
        assert ground.recover(Fault("kill", step)).signal == signal.SIGKILL
        tally.count("kills at a file operation")
        ground.check()
        ground.check_recovered()


@pytest.mark.case("A2")
@pytest.mark.parametrize("name", ["export", "checkpoint"])
def test_killed_where_names_cannot_be_swapped_in_one_step(grounds: Grounds, name: str, tally: Tally) -> None:
    """An older artefact is out of its place for a moment: the next start puts it back."""
    ground = grounds(name)
    for number in some(tally, ground.operations, 2):
        ground.restore()
        outcome = ground.work(Fault("kill", number, exchange=False))
        assert outcome.well or outcome.signal == signal.SIGKILL
        tally.count("kills at a file operation")
        ground.check_recovered()
        ground.finish()
