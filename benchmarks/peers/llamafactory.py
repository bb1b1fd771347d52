"""LLaMA-Factory as its own examples run it: LoRA on all linear layers, `bf16: true`, the rest at its defaults.

`bf16: true` also makes it load the weights in bfloat16; activation checkpointing is on by default, and logits are made
at every position. The rows come tokenized (`tokenized_path`), which it takes as they are. It pins older libraries, so
it lives in an environment of its own.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict
from llamafactory.hparams import get_train_args
from llamafactory.train.sft.workflow import run_sft

from benchmarks.exchange import Figures, Job, Row, read_rows
from benchmarks.peers.clock import StepClock
from benchmarks.peers.rows import with_labels


def train(job: Job) -> Figures:
    """Its workflow runs twice: over the warm-up rows, then, with a model loaded anew, over the timed ones."""
    rows = read_rows(job.rows)
    clock = StepClock()
    _fit(job, "warm-up", rows.warm_up, clock)
    gc.collect()
    loss = _fit(job, "timed", rows.train, clock)
    return {
        "seconds": clock.seconds,
        "tokens_per_s": rows.train_tokens * job.epochs / clock.seconds,
        "train_loss": loss,
    }


def _fit(job: Job, name: str, rows: Sequence[Row], clock: StepClock) -> float:
    """Train on rows and return the mean loss of the steps."""
    tokenized, output = Path(job.scratch) / f"{name}-rows", Path(job.scratch) / name
    DatasetDict({"train": Dataset.from_list(with_labels(rows))}).save_to_disk(str(tokenized))
    settings: dict[str, object] = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": job.base_folder,
        "template": "default",
        "dataset": "given-tokenized",
        "tokenized_path": str(tokenized),
        "finetuning_type": "lora",
        "lora_rank": job.rank,
        "lora_alpha": job.alpha,
        "lora_target": "all",
        "cutoff_len": job.max_length,
        "output_dir": str(output),
        "per_device_train_batch_size": job.batch_size,
        "num_train_epochs": float(job.epochs),
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": job.max_grad_norm,
        "seed": job.seed,
        "bf16": True,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    model, data, training, finetuning, generating = get_train_args(settings)
    run_sft(model, data, training, finetuning, generating, callbacks=[clock])
    results = json.loads((output / "train_results.json").read_text("utf-8"))
    return float(results["train_loss"])
