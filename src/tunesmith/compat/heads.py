"""Refuse several tasks with heads where their sources, metrics or add-ons do not fit together."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.chain import data_of
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.data import ClassRows, DataSpec, RowsSpec
from tunesmith.recipe.specs.evaluate import METRICS_OF_ROWS
from tunesmith.recipe.specs.objectives import MultitaskSpec


def check_heads(recipe: Recipe, stage: StageSpec, place: int) -> None:
    """Hold `data.tasks` against the stage that learns them.

    Errors: compat.embeddings_without_heads, compat.embeddings_beside, compat.heads_objective, compat.heads_rows,
    compat.heads_old_rows, compat.heads_augment, compat.source_without_task, compat.task_without_source,
    compat.task_without_metric.
    """
    objective, data = stage.objective, data_of(recipe, stage)
    tasks = data.tasks
    embeddings = isinstance(objective, MultitaskSpec) and objective.task_embeddings
    if tasks is None:
        if embeddings:
            raise TunesmithError("compat.embeddings_without_heads", place=place)
        return
    if not isinstance(objective, MultitaskSpec):
        raise TunesmithError("compat.heads_objective", place=place, objective=objective.kind)
    if embeddings and not stage.adapt.mergeable:
        raise TunesmithError("compat.embeddings_beside", place=place, kind=stage.adapt.kind)
    _check_old_rows(stage, tasks, place)
    derived = "token_class" if set(tasks.values()) == {"token_class"} else "text_class"
    if (data.task, data.rows) != (derived, derived):
        raise TunesmithError("compat.heads_rows", task=data.task, rows=data.rows)
    replayed = stage.replay.sources if stage.replay is not None else []
    _check_sources(data, {source.title for source in replayed})
    _check_augment(recipe.data if stage.data is None else None)
    for name, rows in tasks.items() if stage.data is None else ():
        if not recipe.evaluate.metrics_of(rows):
            known = ", ".join(METRICS_OF_ROWS[rows])
            raise TunesmithError("compat.task_without_metric", task=name, rows=rows, known=known)


def _check_old_rows(stage: StageSpec, tasks: Mapping[str, ClassRows], place: int) -> None:
    """An old row is read by the head of its task, so its source is named after one."""
    for what, sources in stage.old_sources.items():
        for source in sources:
            if source.title not in tasks:
                raise TunesmithError(
                    "compat.heads_old_rows", place=place, what=what, source=source.title, known=", ".join(tasks)
                )


def _check_augment(data: DataSpec | None) -> None:
    """What looks at the labels of all rows together would mix those of different tasks."""
    augment = data.augment if data is not None else None
    if augment is None:
        return
    by_label = augment.balance is not None and augment.balance.by == "label"
    mixing = {"synthesize": augment.synthesize is not None, "balance.by: label": by_label}
    for what, asked_for in mixing.items():
        if asked_for:
            raise TunesmithError("compat.heads_augment", what=what)


def _check_sources(data: RowsSpec, replayed: Collection[str]) -> None:
    """Every source is of a task, and wherever sources are named, every task has one.

    A task whose rows are replayed needs no new ones. Then nothing can be set aside of it: its validation and test rows
    are named.
    """
    tasks = data.tasks or {}
    stated = {
        where: [source.title for source in getattr(data, where)]
        for where in ("sources", "validation_sources", "test_sources")
        if hasattr(data, where)
    }
    without_new = [name for name in tasks if name in replayed and name not in stated["sources"]]
    for where, found in stated.items():
        for name in found:
            if name not in tasks:
                raise TunesmithError("compat.source_without_task", source=name, where=where, known=", ".join(tasks))
        has_all = [*found, *without_new] if where == "sources" else found
        lacking = [name for name in tasks if name not in has_all]
        if (found or without_new) and lacking:
            raise TunesmithError("compat.task_without_source", task=lacking[0], where=where)
