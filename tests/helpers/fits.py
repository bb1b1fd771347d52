"""Small real fits: a tiny model, a few tickets, one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from tunesmith.core.conditions import Conditions
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.types import Example, Message, Origin
from tunesmith.data.samples.tickets import generate_tickets
from tunesmith.models.load import load_model, resolve_base, weights_sha256
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.model import Quantize
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.base import Runtime
from tunesmith.runtime.local import LocalRuntime
from tunesmith.tasks.chat import ChatTask
from tunesmith.train.build import StageInputs, build
from tunesmith.train.loop import Job
from tunesmith.train.teacher import TeacherModel
from tunesmith.train.validation import no_task_metric


def examples(count: int, first: int = 0) -> list[Example]:
    """Tickets as rows numbered from `first`, short enough for a tiny model."""
    return [
        Example(
            first + place,
            "chat",
            Origin("tickets", place),
            (Message("user", ticket.message), Message("assistant", ticket.intent)),
        )
        for place, ticket in enumerate(generate_tickets(count, "train", seed=first + 1))
    ]


def local() -> LocalRuntime:
    """This process on the CPU, with one thread."""
    return LocalRuntime(RuntimeSpec(device="cpu", threads=1))


def make_job(
    base: Path,
    folder: Path,
    runtime: Runtime,
    *,
    settings: Mapping[str, object] | None = None,
    adapt: Mapping[str, object] | None = None,
    groups: Mapping[str, object] | None = None,
    add_ons: Mapping[str, object] | None = None,
    teacher: Path | None = None,
    dtype: torch.dtype = torch.float32,
    quantize: Quantize = "none",
    rows: int = 24,
    key: str = "key",
    emitter: Emitter = SILENT,
    beginning: str = "",
) -> Job:
    """A fit of `rows` tickets; `settings` are fields of TrainSpec, `adapt` of the adaptation.

    `add_ons` are further fields of the stage (objective, penalties, replay); old rows are tickets of their own.
    `beginning` is what the system says first in every training row.
    `teacher` is the folder of one.
    """
    loaded = load_model(base, dtype=dtype, quantize=quantize)
    task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 512)
    stage = StageSpec.model_validate(
        {
            "name": "instruct",
            "adapt": dict(adapt) if adapt and "kind" in adapt else {"kind": "lora", "rank": 4, **(adapt or {})},
            "groups": dict(groups or {}),
            **(add_ons or {}),
            "train": {"epochs": 2.0, "batch_size": 4, "learning_rate": 1e-2, **(settings or {})},
        }
    )
    inputs = StageInputs(
        loaded=loaded,
        base=resolve_base(str(base)),
        task=task,
        train_rows=[task.encode(_behind(beginning, each)).features for each in examples(rows)],
        validation_rows=[task.encode(each).features for each in examples(6, first=1000)],
        folder=folder,
        conditions=Conditions({"key": key}),
        task_metric=no_task_metric,
        teacher=teacher
        and TeacherModel("teacher", weights_sha256(teacher), teacher, partial(load_model, teacher, dtype=dtype)),
        tasks={row: "others" if row % 3 else "threes" for row in (*range(rows), *range(1000, 1006))},
        old_rows={
            what: [task.encode(each).features for each in examples(10, first=2000)] for what in ("ewc", "replay")
        },
    )
    return build(stage, inputs, runtime, emitter)


def _behind(beginning: str, example: Example) -> Example:
    return replace(example, messages=(Message("system", beginning), *example.messages)) if beginning else example
