"""Every point of the matrix trains and keeps its promises, or is refused by its code; the file says which."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fits import local
from matrix_axes import ADAPTS, AIMS, AXES, RUNTIMES, TASKS, Point, all_pairs, codes, is_refused
from matrix_check import check_point
from matrix_points import SLICE, all_points, covering_points, sliced, whole_points
from matrix_ranks import Ranks
from matrix_whole import check_whole
from pydantic import BaseModel

from tunesmith.compat.matrix import PAIR, WHOLE, Matrix, support_matrix, write_matrix
from tunesmith.data.media.kinds import MEDIA_KINDS
from tunesmith.messages import error_codes
from tunesmith.recipe.load import recipe_schema
from tunesmith.recipe.specs.groups import GroupsSpec
from tunesmith.recipe.specs.penalties import PenaltiesSpec

Tell = Callable[[Point, str], None]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that goes at once: hundreds of points write checkpoints."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_point(point: Point, bases: Path, ranks: Ranks, folder: Path, tell_result: Tell) -> None:
    distributed = RUNTIMES[point.runtime]["kind"] == "distributed"
    result = ranks.check(point, bases, folder) if distributed else check_point(point, bases, folder, local())
    assert result == PAIR or result in codes(point)
    tell_result(point, result)


def test_whole(whole_point: Point, bases: Path, folder: Path, tell_result: Tell) -> None:
    check_whole(whole_point, bases, folder)
    tell_result(whole_point, WHOLE)


# ------------------------------------------------------------------------------------------ the points


def test_every_two_values_stand_together_in_a_point() -> None:
    """Where neither refuses the other, in a point that trains, unless every third value refuses one of them."""
    points = covering_points()
    met = {pair for point in points for pair in point.pairs}
    trains = {pair for point in points if not codes(point) for pair in point.pairs}
    assert met == set(all_pairs())
    for pair in set(all_pairs()) - trains:
        holding = [point for point in points if pair in point.pairs]
        assert is_refused(pair) or all(codes(point) for point in holding)
    alone = {pair for point in points for pair in point.pairs if sum(map(is_refused, point.pairs)) == 1}
    assert {pair for pair in all_pairs() if is_refused(pair)} <= alone, "each refusal is seen by itself"


def test_the_slice_has_every_value_that_trains_and_is_small() -> None:
    chosen = sliced(all_points())
    assert len(chosen) == SLICE and chosen == sliced(all_points())
    assert {value for point in chosen for value in point.values} == {
        (axis, value) for axis, values in AXES.items() for value in values
    }
    assert {point.adapt for point in chosen if not codes(point)} == set(ADAPTS)
    assert any(codes(point) for point in chosen)


def test_what_goes_the_whole_way_trains() -> None:
    assert not any(codes(point) for point in whole_points())


def test_codes_exist() -> None:
    assert {code for point in all_points() for code in codes(point)} <= set(error_codes())


# ------------------------------------------------------------------------------------------ nothing is left out


def kinds(field: str) -> set[str]:
    """The words that a field of the recipe's schema takes as its kind, wherever the schema has that field."""
    schema = recipe_schema()
    text = json.dumps(schema["$defs"]["StageSpec"]["properties"][field])  # type: ignore[index,call-overload]
    return {
        str(schema["$defs"][name]["properties"]["kind"]["const"])  # type: ignore[index,call-overload]
        for name in re.findall(r"#/\$defs/(\w+)", text)
    }


def test_every_kind_of_the_specs_is_a_value_of_the_matrix() -> None:
    """A new adaptation, objective, task or runtime must enter `matrix_axes.py`."""
    assert {str(each.spec["kind"]) for each in ADAPTS.values()} == kinds("adapt")
    stated = [each.stage.get("objective", {"kind": "supervised"}) for each in AIMS.values()]
    assert {str(each["kind"]) for each in stated} == kinds("objective")  # type: ignore[index]
    definitions = recipe_schema()["$defs"]
    data = definitions["DataSpec"]["properties"]["task"]["enum"]  # type: ignore[index,call-overload]
    runtimes = definitions["RuntimeSpec"]["properties"]["kind"]["enum"]  # type: ignore[index,call-overload]
    assert {each.data["task"] for each in TASKS.values()} == set(data) - set(MEDIA_KINDS)  # nothing learns from these
    assert {each["kind"] for each in RUNTIMES.values()} == set(runtimes)


@pytest.mark.parametrize(("name", "spec"), [("groups", GroupsSpec), ("penalties", PenaltiesSpec)])
def test_every_add_on_is_a_value_of_the_matrix(name: str, spec: type[BaseModel]) -> None:
    used: set[str] = set()
    for each in AIMS.values():
        stated = each.stage.get(name, {})
        assert isinstance(stated, dict)
        used |= set(stated)
    assert used == set(spec.model_fields)


# ------------------------------------------------------------------------------------------ the file


def test_the_file_holds_the_result_of_every_point() -> None:
    """What it says is what the tables demand; run `make test-matrix` after a change of either."""
    found = support_matrix()
    assert found.axes == {axis: tuple(values) for axis, values in AXES.items()}
    points = {Point(*values): result for values, result in found.points.items()}
    assert set(points) == set(all_points())
    for point, result in points.items():
        if codes(point):
            assert result in codes(point), point
        else:
            assert result == (WHOLE if point in whole_points() else PAIR), point


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    found = support_matrix()
    shuffled = Matrix(found.axes, dict(reversed(found.points.items())))
    for name, matrix in (("one", found), ("other", shuffled)):
        write_matrix(tmp_path / name, matrix)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    assert json.loads((tmp_path / "one").read_text("utf-8"))["axes"] == {k: list(v) for k, v in found.axes.items()}
