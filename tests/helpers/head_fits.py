"""Small real fits of several tasks with heads side by side: a tiny body, tickets of three kinds, one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from class_rows import as_examples, several_rows, text_rows, token_rows

from tunesmith.core.conditions import Conditions
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.types import Example, Origin
from tunesmith.models.heads import Head
from tunesmith.models.load import load_with_head, resolve_base
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.data import ClassRows, DataSpec
from tunesmith.runtime.base import Runtime
from tunesmith.tasks.label_sets import found_labels, head_from
from tunesmith.tasks.registry import class_task_of
from tunesmith.train.build import StageInputs, build
from tunesmith.train.loop import Job
from tunesmith.train.validation import no_task_metric

TASKS: Mapping[str, ClassRows] = {"intents": "text_class", "marks": "multi_label", "names": "token_class"}
TEXTS: Mapping[str, ClassRows] = {"intents": "text_class", "marks": "multi_label"}
OLD = 1000
"""Number of the first old row."""
MAKERS = {"text_class": text_rows, "multi_label": several_rows, "token_class": token_rows}


def task_examples(tasks: Mapping[str, ClassRows], count: int) -> list[Example]:
    """So many tickets of every task in turn, numbered through."""
    found = []
    for seed, (name, rows) in enumerate(tasks.items()):
        for place, each in enumerate(as_examples(MAKERS[rows](count, "train", seed + 1))):
            found.append(replace(each, row=place * len(tasks) + seed, origin=Origin(name, place)))
    return sorted(found, key=lambda each: each.row)


def old_examples(tasks: Mapping[str, ClassRows]) -> list[Example]:
    """Three further tickets of every task, numbered from `OLD` on."""
    later = task_examples(tasks, 13)[10 * len(tasks) :]
    return [replace(each, row=OLD + place) for place, each in enumerate(later)]


def data_of(tasks: Mapping[str, ClassRows]) -> DataSpec:
    """What a recipe says of them."""
    sources = [{"path": f"{name}.jsonl", "name": name} for name in tasks]
    return DataSpec.model_validate({"tasks": dict(tasks), "sources": sources})


def heads_of(tasks: Mapping[str, ClassRows], examples: list[Example], *, embeddings: bool = False) -> Head:
    """Their heads side by side, with the labels of these rows."""
    spec = data_of(tasks)
    return head_from(spec, found_labels(spec, examples), embeddings=embeddings)


def make_heads_job(
    base: Path,
    folder: Path,
    runtime: Runtime,
    tasks: Mapping[str, ClassRows] = TASKS,
    *,
    settings: Mapping[str, object] | None = None,
    adapt: Mapping[str, object] | None = None,
    objective: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float32,
    rows: int = 21,
    emitter: Emitter = SILENT,
    add_ons: Mapping[str, object] | None = None,
) -> Job:
    """A fit of `rows` tickets of all tasks together; `settings` are fields of TrainSpec, `adapt` of the adaptation.

    `add_ons` are further fields of the stage (penalties, replay); old rows are `old_examples`.
    """
    examples, old = task_examples(tasks, 10), old_examples(tasks)
    stage = StageSpec.model_validate(
        {
            "name": "classify",
            "adapt": dict(adapt or {"kind": "lora", "rank": 4}),
            "objective": {"kind": "multitask", **(objective or {})},
            **(add_ons or {}),
            "train": {"epochs": 2.0, "batch_size": 4, "learning_rate": 1e-2, **(settings or {})},
        }
    )
    head = heads_of(tasks, [*examples, *old], embeddings=bool((objective or {}).get("task_embeddings")))
    task = class_task_of(base, head, 96, base)
    encoded = [task.encode(each).features for each in examples]
    inputs = StageInputs(
        loaded=load_with_head(base, head, dtype=dtype),
        base=resolve_base(str(base)),
        task=task,
        train_rows=encoded[:rows],
        validation_rows=encoded[rows:],
        folder=folder,
        conditions=Conditions({"key": "key"}),
        task_metric=no_task_metric,
        tasks={each.row: each.origin.source for each in (*examples, *old)},
        old_rows={what: [task.encode(each).features for each in old] for what in ("ewc", "replay")},
    )
    return build(stage, inputs, runtime, emitter)
