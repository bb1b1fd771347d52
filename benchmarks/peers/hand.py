"""A loop that somebody who knows transformers and PEFT writes by hand: bfloat16, sdpa, sorted rows, fused AdamW.

Adapters are kept in bfloat16 (`autocast_adapter_dtype=False`): faster than PEFT's default of float32 beside a bfloat16
base, which `adapters: float32` gives back. `head: answers` computes logits only where the loss falls, by some more
lines; without it the model does its own loss from `labels`.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from benchmarks.exchange import Figures, Job, read_rows
from benchmarks.peers.judge import adapter_losses, row_losses
from benchmarks.peers.padded import adapted_model, collate, plain_model, sorted_batches
from benchmarks.peers.rows import IGNORED


def train(job: Job) -> Figures:
    """The timed epochs, after one step on the warm-up rows; batches come in another random order each epoch."""
    rows = read_rows(job.rows)
    model = adapted_model(job).train()
    step = _stepper(model, job)
    if not rows.held_out:  # whoever is judged by its losses takes no step more than the others
        step(collate(rows.warm_up))
    batches = [collate(batch) for batch in sorted_batches(rows.train, job.batch_size)]
    draw = random.Random(job.seed)
    losses: list[float] = []
    started = time.perf_counter()
    for _ in range(job.epochs):
        for batch in draw.sample(batches, len(batches)):
            losses.append(step(batch))
    seconds = time.perf_counter() - started
    figures: Figures = {
        "seconds": seconds,
        "tokens_per_s": rows.train_tokens * job.epochs / seconds,
        "train_loss": statistics.fmean(losses),
    }
    if rows.held_out:
        adapter = Path(job.scratch) / "adapter"
        model.save_pretrained(str(adapter))
        figures["held_out_losses"] = adapter_losses(job.base_folder, str(adapter), rows.held_out)
    return figures


def first_losses(job: Job) -> Figures:
    """Mean loss of each timed row by the untouched model, one row at a time."""
    model = plain_model(job.base_folder, getattr(torch, job.options["model.dtype"]))
    return {"losses": row_losses(model.eval(), read_rows(job.rows).train)}


def _stepper(model: PeftModel, job: Job) -> Callable[[dict[str, Tensor]], float]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=0.01, fused=True)
    loss_of = _answer_loss if job.options.get("head") == "answers" else _model_loss

    def step(batch: dict[str, Tensor]) -> float:
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, job.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _model_loss(model: PeftModel, batch: dict[str, Tensor]) -> Tensor:
    loss: Tensor = model(**batch, use_cache=False).loss
    return loss


def _answer_loss(model: PeftModel, batch: dict[str, Tensor]) -> Tensor:
    """The same loss with the head only at the positions that predict a learned token."""
    base = cast(PreTrainedModel, model.get_base_model())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    hidden_BTW = base.get_decoder()(**inputs, use_cache=False).last_hidden_state
    labels_BT = batch["labels"][:, 1:]
    learned_BT = labels_BT != IGNORED
    logits_KV = base.get_output_embeddings()(hidden_BTW[:, :-1][learned_BT])
    return cross_entropy(logits_KV.float(), labels_BT[learned_BT])
