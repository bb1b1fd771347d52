"""The product's passes beside plain training: rows with a common beginning, the loss of validation rows, answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.exchange import Figures, Job, read_rows
from benchmarks.peers.ours import stage_of
from tunesmith.models.generate import generate as generate_answers
from tunesmith.models.load import load_model
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.sampling import GenerateSettings
from tunesmith.tasks.chat import ChatTask
from tunesmith.train.loop import fit
from tunesmith.train.probe import step_cost


def shared(job: Job) -> Figures:
    """Train one epoch; with `pack: apart` every row stands alone, whatever others begin with."""
    rows = read_rows(job.rows)
    stage = stage_of(job, rows, _ApartTask if job.options.get("pack") == "apart" else ChatTask)
    step_cost(stage)
    progress = fit(stage).progress
    return {
        "seconds": progress.seconds,
        "tokens_per_s": rows.train_tokens / progress.seconds,
        "computed_tokens": float(progress.tokens),
    }


class _ApartTask(ChatTask):
    """Packs rows as if they had nothing in common."""

    def pack(self, items: Sequence[Features]) -> Packed:
        """Each row is packed alone, and the batches stand end to end."""
        return _end_to_end([pack([item]) for item in items])


def _end_to_end(parts: Sequence[Packed]) -> Packed:
    starts, first = [], 0
    for part in parts:
        starts.append(first)
        first += part.num_tokens

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    def moved(name: str, end: int | None = None) -> list[Tensor]:
        return [getattr(part, name)[:end] + start for part, start in zip(parts, starts, strict=True)]

    return Packed(
        token_ids=joined("token_ids"),
        position_ids=joined("position_ids"),
        offsets=torch.cat([*moved("offsets", -1), torch.tensor([first])]),
        parent=joined("parent"),
        keep=torch.cat(moved("keep")),
        target=joined("target"),
        weight=joined("weight"),
        row=joined("row"),
    )


def perplexity(job: Job) -> Figures:
    """Mean loss of rows, as validation takes it in training; the second of two equal passes counts."""
    rows = read_rows(job.rows)
    stage = stage_of(job, replace(rows, train=rows.warm_up, warm_up=rows.train))
    stage.validate()
    started = time.perf_counter()
    loss = stage.validate()["loss"]
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens_per_s": rows.train_tokens / seconds, "loss": loss}


def generate(job: Job) -> Figures:
    """Greedy answers of a fixed length to all prompts at once."""
    rows = read_rows(job.rows)
    loaded = load_model(Path(job.base_folder), dtype=torch.bfloat16)
    settings = GenerateSettings(max_new_tokens=int(job.options["new_tokens"]))
    prompts = [row.token_ids for row in rows.train]
    generate_answers(loaded.model, loaded.tokenizer, [row.token_ids for row in rows.warm_up], settings)
    started = time.perf_counter()
    answers = generate_answers(loaded.model, loaded.tokenizer, prompts, settings)
    seconds = time.perf_counter() - started
    token_ids = [token for answer in answers for token in answer.token_ids]
    return {"seconds": seconds, "tokens_per_s": len(token_ids) / seconds, "token_ids": [float(id) for id in token_ids]}
