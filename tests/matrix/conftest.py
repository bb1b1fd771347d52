"""The support matrix: each test tries one point, and says what came out.

make test          some sixty points, each held to what the file says
make test-matrix   all of them; writes src/tunesmith/compat/matrix.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import pytest
from matrix_axes import AXES, Point
from matrix_ground import make_bases
from matrix_points import all_points, sliced, whole_points
from matrix_ranks import Ranks

from tunesmith.compat.matrix import WHOLE, Matrix, support_matrix, write_matrix

_RESULT = "matrix_result"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("matrix")
    group.addoption("--matrix", choices=["slice", "full"], default="slice", help="how much of the matrix to try")
    group.addoption("--matrix-add", action="store_true", help="keep what the file says, and try only what it lacks")
    group.addoption("--matrix-file", type=Path, help="where the results of the whole matrix go")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--matrix-file", None)
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Collector(path, add=config.getoption("--matrix-add")))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every point, or a slice, in which none goes the whole way; what is known already need not be tried."""
    full = metafunc.config.getoption("--matrix", "slice") == "full"
    known = support_matrix().points if metafunc.config.getoption("--matrix-add", False) else {}
    if "point" in metafunc.fixturenames:
        points = all_points() if full else sliced(all_points())
        metafunc.parametrize("point", [each for each in points if astuple(each) not in known], ids=str)
    if "whole_point" in metafunc.fixturenames:
        points = whole_points() if full else []
        metafunc.parametrize("whole_point", [each for each in points if known.get(astuple(each)) != WHOLE], ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a slice nothing goes the whole way."""
    left_out = [item for item in items if "NOTSET" in item.name and item.path.parent == Path(__file__).parent]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bases(tmp_path_factory.mktemp("matrix") / "bases")


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    with Ranks() as found:
        yield found


class Collector:
    """Writes the file from what all workers tell. A point that failed has no line in it, and a test misses it."""

    def __init__(self, path: Path, *, add: bool) -> None:
        self._path = path
        self._results: dict[tuple[str, ...], str] = dict(support_matrix().points) if add else {}
        self._this_run: set[tuple[str, ...]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, told in report.user_properties:
            if name != _RESULT or report.when != "call" or not report.passed:
                continue
            *values, result = told
            point = tuple(values)
            if point not in self._this_run or result == WHOLE:
                self._results[point] = result
            self._this_run.add(point)

    def pytest_sessionfinish(self) -> None:
        wanted = set(map(astuple, all_points()))
        kept = {point: result for point, result in self._results.items() if point in wanted}
        write_matrix(self._path, Matrix({axis: tuple(values) for axis, values in AXES.items()}, kept))


@pytest.fixture
def tell_result(request: pytest.FixtureRequest) -> Callable[[Point, str], None]:
    """Puts the result of a point where the collector finds it."""

    def tell(point: Point, result: str) -> None:
        request.node.user_properties.append((_RESULT, [*astuple(point), result]))

    return tell
