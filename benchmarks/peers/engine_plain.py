"""The same passes by transformers alone, in bfloat16 with sdpa."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.exchange import Figures, Job, Row, read_rows
from benchmarks.peers.padded import adapted_model, collate, plain_model, sorted_batches


def perplexity(job: Job) -> Figures:
    """Mean loss of the learned tokens from the model's own `labels`; the second of two equal passes counts.

    The model carries adapters, as everybody's does whose loss is taken while it trains. `batch: 1` is the loop of every
    tutorial, row after row; more pads sorted rows.
    """
    rows = read_rows(job.rows)
    model = adapted_model(job).eval()
    batches = sorted_batches(rows.train, int(job.options["batch"]))
    _mean_loss(model, batches)
    started = time.perf_counter()
    loss = _mean_loss(model, batches)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens_per_s": rows.train_tokens / seconds, "loss": loss}


def _mean_loss(model: nn.Module, batches: Sequence[Sequence[Row]]) -> float:
    total = count = 0.0
    with torch.inference_mode():
        for batch in batches:
            learned = sum(sum(row.answer[1:]) for row in batch)
            total += float(model(**collate(batch), use_cache=False).loss) * learned
            count += learned
    return total / count


def generate(job: Job) -> Figures:
    """`model.generate`, greedy, all prompts in one batch that is padded on the left."""
    rows = read_rows(job.rows)
    model = plain_model(job.base_folder, torch.bfloat16).eval()
    _answers(model, rows.warm_up, 8)
    new_tokens = int(job.options["new_tokens"])
    started = time.perf_counter()
    token_ids = _answers(model, rows.train, new_tokens)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens_per_s": len(token_ids) / seconds, "token_ids": [float(id) for id in token_ids]}


def _answers(model: PreTrainedModel, rows: Sequence[Row], new_tokens: int) -> list[int]:
    longest = max(len(row.token_ids) for row in rows)
    pads = [longest - len(row.token_ids) for row in rows]
    token_ids = [[0] * pad + list(row.token_ids) for pad, row in zip(pads, rows, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
    # No end token: every answer has the same length, here and at ours.
    settings = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=None)
    model.generation_config = settings
    with torch.inference_mode():
        # type: what transformers says of `self` here fits none of its own models
        found = cast(LlamaForCausalLM, model).generate(  # type: ignore[misc]
            torch.tensor(token_ids), attention_mask=torch.tensor(mask)
        )
    answers: list[int] = found[:, longest:].flatten().tolist()
    return answers
