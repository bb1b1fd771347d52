"""A fit over rows so long that a window of them is hundreds of megabytes: for tests of memory."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from tunesmith.core.conditions import Conditions
from tunesmith.core.events import Emitter
from tunesmith.models.load import load_model, resolve_base
from tunesmith.models.packed import Features
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.tasks.chat import ChatTask
from tunesmith.train.build import StageInputs, build
from tunesmith.train.loop import Job
from tunesmith.train.validation import no_task_metric


def long_rows(count: int, tokens: int, seed: int) -> list[Features]:
    """Rows of about so many random tokens of which the last hundred are learned."""
    draw = random.Random(seed)
    lengths = [tokens + draw.randrange(-50, 50) for _ in range(count)]
    return [
        Features(row, tuple(draw.randrange(10, 250) for _ in range(length)), (0.0,) * (length - 100) + (1.0,) * 100)
        for row, length in enumerate(lengths)
    ]


def long_job(base: Path, folder: Path, batch_size: int | str, tokens: int, emitter: Emitter) -> Job:
    """Two steps of eight long rows in float32, plain gradient descent."""
    loaded = load_model(base, dtype=torch.float32)
    task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 4096)
    train = {"epochs": 1.0, "batch_size": batch_size, "optimizer": "sgd", "learning_rate": 0.1, "max_length": 4096}
    stage = StageSpec.model_validate({"name": "long", "adapt": {"kind": "lora", "rank": 4}, "train": train})
    inputs = StageInputs(
        loaded=loaded,
        base=resolve_base(str(base)),
        task=task,
        train_rows=long_rows(16, tokens, seed=1),
        validation_rows=long_rows(4, tokens, seed=2),
        folder=folder,
        conditions=Conditions({"key": "long"}),
        task_metric=no_task_metric,
    )
    return build(stage, inputs, LocalRuntime(RuntimeSpec(device="cpu", threads=1)), emitter)
