"""`tunesmith methods`: what exists in this release, read from the recipe's own specs, and what goes with what."""

from __future__ import annotations

import json
from typing import Annotated, get_args

import typer
from pydantic import BaseModel

from tunesmith.cli.manner import answer, tell
from tunesmith.compat.check import TASK_METRICS
from tunesmith.compat.matrix import MARKS, TABLES, Matrix, support_matrix
from tunesmith.messages import say
from tunesmith.recipe.load import recipe_schema
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.data import DataSpec, SourceSpec
from tunesmith.recipe.specs.evaluate import EvaluateSpec
from tunesmith.recipe.specs.model import ModelSpec
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.recipe.specs.ship import ShipSpec

SchemaOption = Annotated[bool, typer.Option("--schema", help="cli.opt_schema")]


def methods(schema: SchemaOption = False) -> None:
    """List the values of every axis, or print the JSON schema of a recipe."""
    if schema:
        print(json.dumps(recipe_schema(), ensure_ascii=False, indent=2))
        return
    found = {
        "adapt": _kinds(StageSpec, "adapt"),
        "quantize": _choices(ModelSpec, "quantize"),
        "objective": _kinds(StageSpec, "objective"),
        "runtime": _choices(RuntimeSpec, "kind"),
        "task": [each for each in _choices(DataSpec, "task") if each in TASK_METRICS],
        "layout": _choices(SourceSpec, "layout"),
        "metric": _choices(EvaluateSpec, "metrics"),
        "format": _choices(ShipSpec, "formats"),
    }
    tell(say("cli.methods_intro"))
    for axis, values in found.items():
        tell(f"  {say(f'cli.axis_{axis}')}: {', '.join(values)}")
    tell()
    tell(say("cli.matrix_intro"))
    _tell_matrix(support_matrix())
    answer({**found, "matrix": support_matrix().as_json()})


def _tell_matrix(matrix: Matrix) -> None:
    """The tables of the matrix, their columns numbered, and what the signs say."""
    for axis, columns in TABLES:
        found = matrix.columns(columns)
        width = max(len(value) for value in matrix.axes[axis])
        tell()
        tell(f"  {say(f'cli.axis_{axis}')}")
        for number, (_, value) in enumerate(found, 1):
            tell(f"    {number:>2} {value}")
        tell("    " + " " * width + "".join(f"{number:>3}" for number in range(1, len(found) + 1)))
        for value, signs in matrix.rows(axis, found):
            tell(f"    {value:<{width}}" + "".join(f"{sign:>3}" for sign in signs))
    tell()
    for result in (*MARKS, *matrix.codes):
        tell(f"  {matrix.mark(result)} {say(f'cli.matrix_{result}') if result in MARKS else result}")


def _choices(spec: type[BaseModel], field: str) -> list[str]:
    """The words that a field takes."""
    return _words_in(spec.model_fields[field].annotation)


def _words_in(annotation: object) -> list[str]:
    words = [each for each in get_args(annotation) if isinstance(each, str)]
    return words or [word for each in get_args(annotation) for word in _words_in(each)]


def _kinds(spec: type[BaseModel], field: str) -> list[str]:
    """The kinds of a field that holds one of several specs."""
    annotation = spec.model_fields[field].annotation
    specs = [annotation] if isinstance(annotation, type) else list(get_args(annotation))
    return [word for each in specs if issubclass(each, BaseModel) for word in _choices(each, "kind")]
