"""The fault table: each test names its case, counts what it tried, and runs in two sizes.

    make test          a short slice of every case
    make test-faults   everything; writes faults-report.md

A test looks like this:

    @pytest.mark.case("B2")
    def test_one_flipped_bit_is_refused(tally: Tally) -> None:
        for place in tally.random.sample(places, tally.amount(10, 200)):
            ...
            tally.count("bits flipped")

`tally.random` is seeded by the case and `--faults-seed`; the seed stands in the report.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from faults_forks import Forks
from faults_ground import Ground
from faults_kill import KillRunner
from faults_report import CASES, Entry, read_entries, write_report
from faults_shim import build_shim
from faults_tally import Tally

_CASES, _SEED, _COUNTS = "fault_cases", "fault_seed", "fault_counts"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--faults", choices=["slice", "full"], default="slice", help="how much of the fault table to try")
    group.addoption("--faults-report", type=Path, help="where the report of the fault table goes")
    group.addoption("--faults-add", action="store_true", help="keep what an earlier run has put into the report")
    group.addoption("--faults-seed", type=int, default=1, help="another seed tries other moments and places")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quiet_machine: measures time or load; only in `make test-faults`")
    config.addinivalue_line("markers", "case(*numbers): the cases of the fault table that a test stands for")
    path = config.getoption("--faults-report")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(path, add=config.getoption("--faults-add")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every test of this folder stands for a case that exists. Those that need a quiet machine wait for `full`."""
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        numbers = _cases_of(item)
        if not numbers or set(numbers) - set(CASES):
            raise pytest.UsageError(f"{item.nodeid} names no case of the fault table: {numbers}")
        item.user_properties.append((_CASES, numbers))
    if config.getoption("--faults") == "slice":
        quiet = [item for item in items if item.get_closest_marker("quiet_machine")]
        config.hook.pytest_deselected(items=quiet)
        items[:] = [item for item in items if item not in quiet]


def _cases_of(item: pytest.Item) -> tuple[str, ...]:
    return tuple(number for marker in item.iter_markers("case") for number in marker.args)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Sizes, seed and counts of one test."""
    config = request.config
    seed = zlib.crc32(request.node.nodeid.encode()) % 10**6 + config.getoption("--faults-seed")
    found = Tally(config.getoption("--faults") == "full", seed)
    yield found
    request.node.user_properties += [(_SEED, found.seed), (_COUNTS, dict(found.counts))]


@pytest.fixture(scope="session")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Ground]]:
    """The scenarios of `faults_files.py` by name, each prepared when it is first asked for."""
    library = build_shim(tmp_path_factory.mktemp("shim"))
    with Forks(library, tmp_path_factory.mktemp("files")) as forks:
        yield cache(lambda name: Ground(forks, name))


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KillRunner]:
    """The warmed parent of children that are struck by signals."""
    with KillRunner(tmp_path_factory.mktemp("runner")) as found:
        yield found


class Collector:
    """Makes the report of what all workers tell: their properties travel with the result of each test."""

    def __init__(self, path: Path, *, add: bool) -> None:
        self._path = path
        self._entries = read_entries(path) if add else {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told = dict(report.user_properties)
        if _CASES not in told:
            return
        if report.when == "setup":
            self._entries[report.nodeid] = Entry(tuple(told[_CASES]))
        entry = self._entries[report.nodeid]
        entry.seconds += report.duration
        entry.seed, entry.counts = told.get(_SEED), told.get(_COUNTS, {})
        if report.when == "call" or report.outcome != "passed":
            entry.outcome = report.outcome

    def pytest_sessionfinish(self) -> None:
        write_report(self._path, self._entries)
