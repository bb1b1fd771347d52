"""The labels of a run: found in its rows once, kept in a file, and the head that they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tunesmith.core.types import Example
from tunesmith.models.heads import Head
from tunesmith.models.side_by_side import side_by_side
from tunesmith.recipe.specs.data import ClassRows, RowsSpec
from tunesmith.tasks.classes import label_set

ONLY = ""
"""The name of a run's task where it has one alone."""


def rows_by_task(spec: RowsSpec) -> Mapping[str, ClassRows]:
    """The kind of every task's rows by its name."""
    if spec.tasks is not None:
        return spec.tasks
    if spec.rows not in ("text_class", "multi_label", "token_class"):
        raise ValueError(f"{spec.rows} have no classes")
    return {ONLY: spec.rows}


def of_task(name: str, examples: Iterable[Example]) -> list[Example]:
    """The rows of a task: those of the sources that are named like it; of the only one all."""
    return [each for each in examples if name in (ONLY, each.origin.source)]


def found_labels(spec: RowsSpec, examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """The labels of every task in the rows."""
    return {name: label_set(of_task(name, examples)) for name in rows_by_task(spec)}


def labels_file(labels: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """What is kept of them."""
    if ONLY in labels:
        return {"labels": list(labels[ONLY])}
    return {"tasks": {name: list(each) for name, each in labels.items()}}


def stated_labels(file: Mapping[str, object]) -> dict[str, tuple[str, ...]]:
    """The same, read back."""
    tasks = file.get("tasks")
    stated = tasks if isinstance(tasks, dict) else {ONLY: file.get("labels")}
    return {str(name): tuple(each) if isinstance(each, list) else () for name, each in stated.items()}


def head_from(spec: RowsSpec, labels: Mapping[str, Sequence[str]], *, embeddings: bool = False) -> Head:
    """The head of a run, or the heads of its tasks side by side."""
    heads = {name: _head(rows, labels.get(name, ())) for name, rows in rows_by_task(spec).items()}
    return heads[ONLY] if ONLY in heads else side_by_side(heads, embeddings=embeddings)


def _head(rows: ClassRows, labels: Sequence[str]) -> Head:
    return Head("token_class" if rows == "token_class" else "text_class", tuple(labels), rows == "multi_label")


def rows_of(head: Head) -> ClassRows:
    """The kind of rows that a head learns from."""
    if head.task == "token_class":
        return "token_class"
    return "multi_label" if head.several else "text_class"
