"""A run to work on: found by its recipe and its files, or made; and what every stage asks of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from tunesmith.compat.check import check
from tunesmith.core.conditions import differences, listed, machine_conditions
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Events, Listener
from tunesmith.core.files import read_json, sha256_file
from tunesmith.core.process import available_cores
from tunesmith.core.run import LOCK, METRICS, Run, list_runs, one_at_a_time
from tunesmith.core.types import Example, SplitName
from tunesmith.data import prepare as data_room
from tunesmith.data.collect.fetch import collect
from tunesmith.data.collect.lineage import lineage_of
from tunesmith.data.table import to_examples
from tunesmith.models.heads import Head
from tunesmith.models.load import BaseFolder, Loaded, load_model, load_with_head, resolve_base
from tunesmith.models.nf4 import nf4_library, require_nf4
from tunesmith.models.packed import Features
from tunesmith.models.texts import texts_sha256
from tunesmith.recipe.chain import learning_runs_rows
from tunesmith.recipe.identity import anchored, identity, settings, source_hashes
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.beginnings import BeginningSpec
from tunesmith.recipe.specs.data import RowsSpec
from tunesmith.recipe.specs.objectives import TARGET
from tunesmith.runtime.peak import place_of
from tunesmith.ship.received import received_base
from tunesmith.tasks.base import Task
from tunesmith.tasks.classes import longest_row
from tunesmith.tasks.label_sets import head_from, stated_labels
from tunesmith.tasks.registry import task_of
from tunesmith.tasks.unlabelled import with_stand_ins
from tunesmith.train.build import DTYPES
from tunesmith.train.checkpoint import BEST
from tunesmith.train.settle import settled

LABELS = "labels.json"
"""The labels of a task with classes, in the order of their numbers; of a stage's own rows, in the stage's folder."""


@dataclass(frozen=True)
class Work:
    """A run being worked on: its directory, its locked recipe, where the recipe's paths start, and who listens.

    With `accept_machine` a training goes on under other versions, on another processor or with other threads than its
    checkpoint was made under; the run and its card say so.
    """

    run: Run
    recipe: Recipe
    recipe_folder: Path
    events: Events
    accept_machine: bool = False

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files: the only one, or the first of a distributed launch."""
        return self.recipe.runtime.kind == "local" or os.environ.get("RANK", "0") == "0"

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.run.path

    @property
    def change(self) -> Path:
        """The best change of the last stage: what is evaluated and published."""
        return self.path / self.recipe.stages[-1].name / BEST

    def base(self) -> BaseFolder:
        """The base model, its weights hashed anew at every call and equal to those that the run began with.

        Errors: those of `resolve_base`, lifecycle.base_changed.
        """
        spec = self.recipe.model
        base = resolve_base(spec.base, revision=spec.revision, offline=spec.offline or None)
        manifest, found = self.run.manifest(), base_facts(base)
        changed = differences({name: str(manifest.get(name)) for name in found}, found)
        if changed:
            raise TunesmithError(
                "lifecycle.base_changed", base=spec.base, path=str(base.path), differences=listed(changed)
            )
        return base

    def received(self, stage: StageSpec) -> BaseFolder:
        """What the change of a stage is put on: the base, or what the stages before made of it.

        Errors: those of `base` and `received_base`.
        """
        return received_base(self.run, self.recipe, stage, self.base())

    @cached_property
    def head(self) -> Head | None:
        """The task head with the labels that the data stage found; None where the model answers in words."""
        return _head(self.recipe.data, self.path, embeddings=self.recipe.task_embeddings)

    def head_of(self, stage: StageSpec) -> Head | None:
        """The task head that a stage trains."""
        if stage.data is None:
            return self.head
        return _head(stage.data, self.path / stage.name, embeddings=stage.task_embeddings)

    def load(self, base: BaseFolder) -> Loaded:
        """The base in memory in the locked number format, with a task head where the task has one."""
        dtype, device = DTYPES[self.recipe.model.dtype], self.recipe.runtime.device
        if self.head is not None:
            return load_with_head(base.path, self.head, dtype=dtype, device=device)
        return load_model(base.path, dtype=dtype, device=device)

    def load_to_train(self, stage: StageSpec, base: BaseFolder) -> Loaded:
        """What a stage received, in the form that it is trained in: quantised, with dropout, as the recipe says."""
        model, device, head = self.recipe.model, self.recipe.runtime.device, self.head_of(stage)
        dtype, quantize = DTYPES[model.dtype], model.quantize
        if head is None:
            return load_model(base.path, dtype=dtype, device=device, quantize=quantize)
        return load_with_head(base.path, head, dtype=dtype, device=device, dropout=model.dropout, quantize=quantize)

    @cached_property
    def task(self) -> Task:
        """The task that the run is judged on, with the base's own tokenizer and template."""
        return task_of(self.base().path, self.head, self.max_length)

    @property
    def max_length(self) -> int:
        """Longest of the run's rows in tokens. Errors: those of `longest_row`."""
        return self._longest(learning_runs_rows(self.recipe)[-1])

    def _longest(self, stage: StageSpec) -> int:
        """As stated, and with a task head no more than the model has positions left for."""
        stated = stage.train.max_length
        places = stage.adapt.num_virtual_tokens if isinstance(stage.adapt, BeginningSpec) else 0
        return stated if self.head_of(stage) is None else longest_row(self.base().path, stated, places)

    def task_of(self, stage: StageSpec) -> Task:
        """The task of the rows that a stage learns from."""
        if stage.data is None:
            return self.task
        return task_of(self.base().path, self.head_of(stage), self._longest(stage))

    def examples(self, split: SplitName, stage: StageSpec | None = None) -> list[Example]:
        """The rows of a split, of the run or as a stage has them. Errors: those of `load_splits`."""
        if stage is None or stage.data is None:
            return to_examples(data_room.load_split(self.path, split))
        return to_examples(data_room.load_beside(self.path)[f"{stage.name}-{split}"])

    def features(self, split: SplitName, stage: StageSpec | None = None) -> list[Features]:
        """The rows of a split as token ids and loss weights."""
        task = self.task if stage is None else self.task_of(stage)
        return [task.encode(example).features for example in self.examples(split, stage)]

    def old_examples(self, stage: StageSpec) -> dict[str, Sequence[Example]]:
        """The rows of older tasks, by what a stage wants with them. Errors: those of `load_beside`."""
        if not stage.old_sources:
            return {}
        tables = data_room.load_beside(self.path)
        names = {what: f"{stage.name}-{what}" for what in stage.old_sources}
        examples = self.with_stand_ins({name: to_examples(tables[name]) for name in names.values()})
        return {what: examples[name] for what, name in names.items()}

    def old_features(self, stage: StageSpec) -> dict[str, list[Features]]:
        """The same encoded. Errors: those of `load_beside`."""
        found = self.old_examples(stage)
        task = self.task_of(stage) if found else self.task
        return {what: [task.encode(each).features for each in rows] for what, rows in found.items()}

    def with_stand_ins(self, tables: Mapping[str, Sequence[Example]]) -> Mapping[str, Sequence[Example]]:
        """The tables of rows; those without labels have a stand-in in place of one."""
        for stage in self.recipe.stages:
            head = self.head_of(stage) if TARGET in stage.old_sources else None
            if head is not None:
                tables = with_stand_ins(tables, {f"{stage.name}-{TARGET}"}, head.labels)
        return tables


def _head(spec: RowsSpec, folder: Path, *, embeddings: bool) -> Head | None:
    if spec.task == "chat":
        return None
    return head_from(spec, stated_labels(read_json(folder / LABELS)), embeddings=embeddings)


def start(
    recipe_path: Path, overrides: Sequence[str], root: Path, listeners: tuple[Listener, ...], *, new: bool = False
) -> Work:
    """The unfinished or finished run of this very recipe and these very files, or a new one.

    Errors: those of `load_recipe`, `check`, `collect`, `require_nf4`, `resolve_base` and `Run.create`;
    lifecycle.run_differs where a run of this name was broken off in its training and the recipe has changed since.
    """
    folder = recipe_path.resolve().parent
    recipe = anchored(load_recipe(recipe_path, overrides), folder)
    check(recipe)
    if recipe.model.quantize == "nf4":
        require_nf4()
    collected = collect(recipe.all_sources, folder, offline=recipe.model.offline)
    sources = source_hashes(recipe, folder)
    key = identity(recipe, sources)
    run = None if new else _newest(root, recipe.name, key)
    if run is None:
        # Before the lock: nobody need wait while a base is downloaded.
        base = resolve_base(recipe.model.base, revision=recipe.model.revision, offline=recipe.model.offline or None)
        lock = settled(recipe, base.revision)
        with one_at_a_time(root):
            run = None if new else _newest(root, recipe.name, key) or _broken_off(root, lock, sources)
            run = run or _make(root, key, lock, recipe_path, base, sources, collected)
    return reopen(run.path, listeners)


def _newest(root: Path, name: str, key: str) -> Run | None:
    """The newest run of this very recipe and these very files."""
    found = [run for run in list_runs(root, name, key) if run.manifest().get("recipe_sha256") == key]
    return found[-1] if found else None


def _make(
    root: Path,
    key: str,
    lock: Recipe,
    recipe_path: Path,
    base: BaseFolder,
    sources: Mapping[str, str],
    collected: Sequence[Path],
) -> Run:
    machine = machine_now(lock)
    facts = {
        **base_facts(base),
        "recipe_folder": str(recipe_path.resolve().parent),
        "base": base.name,
        "base_licence": base.licence,
        "base_origin": vars(base.origin),
        "sources": sources,
        "collected": [lineage_of(place) for place in collected],
        "conditions": machine,
        "threads": int(machine["threads"]),
    }
    files = {"recipe.yaml": recipe_path.read_bytes(), LOCK: lock.as_yaml().encode()}
    return Run.create(root, lock.name, key, facts, files)


def base_facts(base: BaseFolder) -> dict[str, str]:
    """What identifies a base: its weights, and the files beside them."""
    return {"base_sha256": base.sha256, "base_texts_sha256": texts_sha256(base.path)}


def _broken_off(root: Path, lock: Recipe, sources: Mapping[str, str]) -> Run | None:
    """The run of this name whose training was broken off, if its lock says the same in the end.

    Errors: lifecycle.run_differs; it is not left behind in silence because its recipe or rows have changed since.
    """
    for run in reversed(list_runs(root, lock.name)):
        if run.is_owned() or not any(run.path.glob("*/checkpoint-*")) or run.stage("train") is not None:
            continue
        manifest = run.manifest()
        stated = manifest.get("sources")
        was = {**settings(load_recipe(run.path / LOCK)), **(stated if isinstance(stated, dict) else {})}
        found = differences(was, {**settings(lock), **sources})
        if found:
            raise TunesmithError("lifecycle.run_differs", path=str(run.path), differences=listed(found))
        return run
    return None


def reopen(path: Path, listeners: tuple[Listener, ...]) -> Work:
    """A run directory to work on. Errors: core.not_a_run, core.hash_differs when its lock was edited."""
    run = Run.open(path)
    manifest = run.manifest()
    files = manifest["files"]
    if isinstance(files, dict) and files.get(LOCK) != sha256_file(path / LOCK):
        raise TunesmithError("core.hash_differs", path=str(path / LOCK))
    recipe = load_recipe(path / LOCK)
    torch.set_num_threads(recipe.runtime.threads or available_cores())
    work = Work(run, recipe, Path(str(manifest["recipe_folder"])), Events(path / METRICS, listeners))
    return work if work.leads else replace(work, events=SILENT)


def machine_now(recipe: Recipe) -> dict[str, str]:
    """This machine as a locked recipe uses it."""
    threads = recipe.runtime.threads or available_cores()
    machine = machine_conditions(threads, place_of(torch.device(recipe.runtime.device)).processor)
    return machine | (nf4_library() if recipe.model.quantize == "nf4" else {})
