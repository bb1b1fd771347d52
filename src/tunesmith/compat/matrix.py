"""The support matrix: which values of the axes go together, as tests on tiny models have found it.

`make test-matrix` writes `matrix.json` beside this file; `tunesmith methods` prints it and a page of the documentation
shows it. A point is one value of each axis, and its result is one of

    whole      went the whole way: rows, training, evaluation, artefact, proof
    pair       trained: the loss fell, exactly the named tensors moved, their count is the formula's, broken off and
               gone on it had the same bytes, and its saved change, put on and merged, gives the same scores
    <code>     was refused by this error
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tunesmith.core.files import read_json, write_atomic

WHOLE, PAIR = "whole", "pair"
FILE = Path(__file__).with_name("matrix.json")
MARKS = {WHOLE: "●", PAIR: "○"}
"""Signs of a cell; a refused one has the letter of its code."""
TABLES = (("adapt", ("task", "runtime")), ("objective", ("task", "runtime")), ("adapt", ("objective",)))
"""Axes of the tables that are shown: the rows, and what their columns are made of."""


@dataclass(frozen=True)
class Matrix:
    """`axes` are the values by axis, `points` the result of each point, whose values stand in the order of the axes."""

    axes: Mapping[str, tuple[str, ...]]
    points: Mapping[tuple[str, ...], str]

    def cell(self, one: tuple[str, str], other: tuple[str, str]) -> str:
        """The best that two values have done together: whole, pair, or the code that refuses them.

        Args:
            one, other: an axis and a value of it.
        """
        places = {axis: place for place, axis in enumerate(self.axes)}
        (left, right), (left_value, right_value) = (places[one[0]], places[other[0]]), (one[1], other[1])
        found = {
            result
            for values, result in self.points.items()
            if values[left] == left_value and values[right] == right_value
        }
        return next((each for each in (WHOLE, PAIR) if each in found), min(found))

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes that refuse something, in the order of the alphabet."""
        return tuple(sorted(set(self.points.values()) - {WHOLE, PAIR}))

    def mark(self, result: str) -> str:
        """The sign of a result: that of `MARKS`, or the letter of a code."""
        return MARKS.get(result) or chr(ord("a") + self.codes.index(result))

    def columns(self, axes: tuple[str, ...]) -> list[tuple[str, str]]:
        """Axis and value of the columns of a table."""
        return [(axis, value) for axis in axes for value in self.axes[axis]]

    def rows(self, axis: str, columns: list[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
        """The values of an axis, each with its signs in the columns."""
        for value in self.axes[axis]:
            yield value, [self.mark(self.cell((axis, value), column)) for column in columns]

    def as_json(self) -> dict[str, object]:
        """As it is printed for programs."""
        listed = [
            {**dict(zip(self.axes, values, strict=True)), "result": self.points[values]}
            for values in sorted(self.points)
        ]
        return {"axes": {axis: list(values) for axis, values in self.axes.items()}, "points": listed}


@cache
def support_matrix() -> Matrix:
    """The matrix of this release. Errors: core.missing_file, core.broken_json."""
    stated = read_json(FILE)
    axes, points = stated["axes"], stated["points"]
    if not isinstance(axes, dict) or not isinstance(points, list):
        raise ValueError(f"{FILE} is not as write_matrix has it")
    return Matrix(
        {str(axis): tuple(map(str, values)) for axis, values in axes.items()},
        {tuple(map(str, values[:-1])): str(values[-1]) for values in points},
    )


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write a matrix, a line a point: the same results are the same bytes. Errors: those of `write_atomic`."""
    points = [_line([*values, matrix.points[values]]) for values in sorted(matrix.points)]
    axes = [f"{_line(axis)}: {_line(list(values))}" for axis, values in matrix.axes.items()]
    text = f'{{"axes": {{\n{_block(axes)}\n}},\n"points": [\n{_block(points)}\n]}}\n'
    write_atomic(path, text)


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _block(lines: list[str]) -> str:
    return ",\n".join(lines)
