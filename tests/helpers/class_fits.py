"""Small real fits of models with a task head: a tiny body, a few tickets, one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from class_rows import as_examples, several_rows, text_rows, token_rows

from tunesmith.core.conditions import Conditions
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.types import Example
from tunesmith.models.heads import Head
from tunesmith.models.load import load_with_head, resolve_base
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.model import Dropout, Quantize
from tunesmith.runtime.base import Runtime
from tunesmith.tasks.classes import label_set
from tunesmith.tasks.registry import class_task_of
from tunesmith.tasks.unlabelled import with_stand_ins
from tunesmith.train.build import StageInputs, build
from tunesmith.train.loop import Job
from tunesmith.train.validation import no_task_metric

KINDS = ("text_class", "several", "token_class")
_ROWS = {"text_class": text_rows, "several": several_rows, "token_class": token_rows}


def class_examples(kind: str, count: int = 30) -> list[Example]:
    """Tickets with classes as a task takes them."""
    return as_examples(_ROWS[kind](count))


def head_of(kind: str) -> Head:
    """The head of a kind of rows, its labels those of thirty tickets."""
    task = "token_class" if kind == "token_class" else "text_class"
    return Head(task, label_set(class_examples(kind)), kind == "several")  # type: ignore[arg-type]


def make_class_job(
    base: Path,
    folder: Path,
    runtime: Runtime,
    kind: str,
    *,
    settings: Mapping[str, object] | None = None,
    adapt: Mapping[str, object] | None = None,
    objective: Mapping[str, object] | None = None,
    penalties: Mapping[str, object] | None = None,
    dtype: torch.dtype = torch.float32,
    dropout: Dropout | None = None,
    quantize: Quantize = "none",
    rows: int = 24,
    emitter: Emitter = SILENT,
) -> Job:
    """A fit of `rows` tickets to their classes; `settings` are fields of TrainSpec, `adapt` of the adaptation.

    An adversarial objective finds ten tickets of another seed, numbered from 500, as its target domain.
    """
    head = head_of(kind)
    task = class_task_of(base, head, 96, base)
    encoded = [task.encode(each).features for each in class_examples(kind)]
    others = {"target": as_examples(_ROWS[kind](10, seed=2), first=500)}
    targets = with_stand_ins(others, {"target"}, head.labels)["target"]
    stage = StageSpec.model_validate(
        {
            "name": "classify",
            "adapt": dict(adapt or {"kind": "lora", "rank": 4}),
            "objective": {"kind": "supervised", **(objective or {})},
            "penalties": penalties,
            "train": {"epochs": 2.0, "batch_size": 4, "learning_rate": 1e-2, **(settings or {})},
        }
    )
    inputs = StageInputs(
        loaded=load_with_head(base, head, dtype=dtype, dropout=dropout, quantize=quantize),
        base=resolve_base(str(base)),
        task=task,
        train_rows=encoded[:rows],
        validation_rows=encoded[24:],
        folder=folder,
        conditions=Conditions({"key": "key"}),
        task_metric=no_task_metric,
        old_rows={"target": [task.encode(each).features for each in targets]},
    )
    return build(stage, inputs, runtime, emitter)
