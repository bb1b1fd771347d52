"""The disk refuses at every file operation: an error with a next step, and everything older as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from faults_files import NAMES, RECOVERED_BY_WORK
from faults_ground import Ground
from faults_shim import EVERYTHING, TAKES_SPACE, Fault
from faults_tally import Tally

Grounds = Callable[[str], Ground]
pytestmark = pytest.mark.timeout(1800)

FAULTS = {
    "the disk is full": (Fault("fail", error="ENOSPC", later=TAKES_SPACE), "core.disk_full"),
    "the disk fills up in the middle of a write": (Fault("short", error="ENOSPC", later=TAKES_SPACE), "core.disk_full"),
    "the quota is used up": (Fault("fail", error="EDQUOT", later=TAKES_SPACE), "core.disk_full"),
    "one operation fails": (Fault("fail", error="EIO"), "core.disk_fault"),
    "the disk fails for good": (Fault("fail", error="EIO", later=EVERYTHING), "core.disk_fault"),
    "the disk becomes read-only": (Fault("fail", error="EROFS", later=EVERYTHING), "core.not_writable"),
    "a write is cut short": (Fault("short"), ""),
}
SLICE = {"checkpoint": 4, "rows": 2, "export": 3, "records": 5, "collected": 3, "corpus": 3, "pictures": 2}


@pytest.mark.case("B1")
@pytest.mark.parametrize("name", NAMES)
def test_refused_at_every_file_operation(grounds: Grounds, name: str, tally: Tally) -> None:
    ground = grounds(name)
    tries = [(fault, number) for number in range(1, ground.operations + 1) for fault in _faults_of(name, tally)]
    for fault, number in tries if tally.full else tally.random.sample(tries, SLICE[name]):
        wanted, code = FAULTS[fault]
        where = f"{fault} at operation {number}"
        ground.restore()
        outcome = ground.work(Fault(wanted.mode, number, wanted.error, wanted.later))
        tally.count("file operations failed")
        assert not outcome.trace and not outcome.signal, f"{where}: {outcome}"
        # Where only the tidying up behind was refused, or another way was tried and taken, the work is done; what
        # could not be removed is still there, and whole.
        assert outcome.code in (code, ""), f"{where}: {outcome}"
        assert outcome.code or ground.new.items() <= ground.look().items(), where
        if outcome.code == "core.disk_full":
            assert int(str(outcome.facts["needed_mb"])) > 0 and int(str(outcome.facts["free_mb"])) >= 0
        if wanted.later == TAKES_SPACE:
            assert not ground.rubbish(), f"{where}: nothing partial stays"
        ground.check()
        ground.check_recovered()
        if number % 10 == 0:
            ground.finish()


def _faults_of(name: str, tally: Tally) -> list[str]:
    """All; one of them, drawn, where the next start does all that is left and a try takes most of a second."""
    return [tally.random.choice(list(FAULTS))] if name in RECOVERED_BY_WORK else list(FAULTS)


# ------------------------------------------------------------------------------------- too little from the start


@pytest.mark.case("B1")
@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_disk_is_said_before_anything_is_done(grounds: Grounds, name: str, tally: Tally) -> None:
    ground = grounds(name)
    ground.restore()
    outcome = ground.work(Fault("fail", 0, "EROFS", later=EVERYTHING))
    tally.count("file operations failed", outcome.operations)
    assert outcome.code == "core.not_writable" and ground.look() == ground.old and not ground.rubbish()
