"""Whose rows are whose: the tables of a run by the stage that names them, and the labels of each set of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_json
from tunesmith.core.types import SPLITS, Example
from tunesmith.models.heads import is_unnamed, refuse_other_labels, stated_head
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.data import RowsSpec
from tunesmith.tasks.label_sets import ONLY, found_labels, labels_file, of_task, rows_by_task
from tunesmith.work import LABELS, Work


def owners(recipe: Recipe, tables: Iterable[str]) -> Iterator[tuple[str, StageSpec | None]]:
    """Each table with the stage that alone names its rows; None for the run's splits."""
    owned = {f"{stage.name}-{what}": stage for stage in recipe.stages for what in (*stage.sources, *SPLITS)}
    for name in tables:
        yield name, owned.get(name)


def keep_labels(work: Work, examples: Mapping[str, Sequence[Example]]) -> None:
    """Write the labels of every set of rows that has them: the run's, and those of stages with rows of their own.

    Args:
        examples: the rows by the name of their table.

    Errors: lifecycle.one_label, lifecycle.task_without_rows, models.other_labels where the base has a head of its own.
    """
    owned = dict(owners(work.recipe, examples))
    shared = [name for name, stage in owned.items() if stage is None or stage.data is None]
    _keep(work, work.recipe.data, work.path, "", {name: examples[name] for name in shared})
    for stage in work.recipe.stages:
        if stage.data is not None:
            own = {name: examples[name] for name, owner in owned.items() if owner == stage}
            _keep(work, stage.data, work.path / stage.name, f"{stage.name}-", own)


def _as_the_base_numbers(work: Work, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels in the order of the head that the base brings along, where it has one. Errors: models.other_labels."""
    folder = work.base().path
    head = stated_head(folder)
    if head is None or head.parts or is_unnamed(head.labels):
        return labels
    refuse_other_labels(folder, head.labels, labels)
    return head.labels


def _keep(work: Work, spec: RowsSpec, folder: Path, stage: str, examples: Mapping[str, Sequence[Example]]) -> None:
    """Number the labels of tasks that have them, and say which no training row teaches: replayed ones train too."""
    if spec.task == "chat":
        return
    labels = found_labels(spec, [each for rows in examples.values() for each in rows])
    splits = {split: list(examples[f"{stage}{split}"]) for split in SPLITS if f"{stage}{split}" in examples}
    splits["train"] += [each for name, rows in examples.items() if name.endswith("-replay") for each in rows]
    for name, rows in rows_by_task(spec).items():
        lacking = [split for split, found in splits.items() if not of_task(name, found)]
        if lacking:
            raise TunesmithError("lifecycle.task_without_rows", task=name, split=lacking[0])
        if len(labels[name]) < 2 - (rows == "multi_label"):
            raise TunesmithError("lifecycle.one_label", labels=", ".join(labels[name]) or "-")
    if not stage and ONLY in labels:
        labels[ONLY] = _as_the_base_numbers(work, labels[ONLY])
    with work.run.replacing(folder / LABELS):
        write_json(folder / LABELS, labels_file(labels))
    taught = found_labels(spec, splits["train"])
    untaught = sorted(each for name in labels for each in set(labels[name]) - set(taught[name]))
    if untaught:
        work.events.emit("note", code="lifecycle.untaught_labels", count=len(untaught), first=untaught[0])
    for name in (name for name, rows in rows_by_task(spec).items() if rows == "token_class"):
        _tell_two_schemes(work, of_task(name, splits["train"]))


def _tell_two_schemes(work: Work, examples: Sequence[Example]) -> None:
    """Say it where some sources write an entity in BIO and others in BIOES: the model learns both ways to write it.

    A source with an entity is in BIOES where it ends one (`E-`) or has one of a single token (`S-`).
    """
    signs: dict[str, set[str]] = {}
    for each in examples:
        signs.setdefault(each.origin.source, set()).update(label[:2] for label in each.labels)
    bioes = sorted(source for source, found in signs.items() if found & {"E-", "S-"})
    bio = sorted(source for source, found in signs.items() if "B-" in found and source not in bioes)
    if bio and bioes:
        work.events.emit("note", code="lifecycle.two_schemes", bio=", ".join(bio), bioes=", ".join(bioes))
