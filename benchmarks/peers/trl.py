"""TRL's SFTTrainer. Only what every system is given is set (rank, batch, step size, schedule, rows); the rest is TRL's.

    default             float32 weights under bfloat16 autocast, activation checkpointing, random order
    gradient_checkpointing: no
    dtype: bfloat16     weights loaded in bfloat16
    sorted: yes         batches of rows of like length. `train_sampling_strategy="group_by_length"` sorts within 50
                        batches on a long file and not at all on one as short as this; so the rows come sorted.

Rows come with `input_ids` and `labels`, which TRL takes as they are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTConfig, SFTTrainer

from benchmarks.exchange import Figures, Job, Row, read_rows
from benchmarks.peers.padded import IGNORED


class _Clock(TrainerCallback):
    """Seconds from the beginning of the first step to the end of the last one."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if state.global_step == 0:
            self.began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.ended = time.perf_counter()


def train(job: Job) -> Figures:
    """The trainer runs twice: once over the warm-up rows, then over the timed ones."""
    rows = read_rows(job.rows)
    ordered = sorted(rows.train, key=lambda row: len(row.token_ids)) if "sorted" in job.options else rows.train
    clock = _Clock()
    trainer = SFTTrainer(
        model=job.base_folder,
        args=_settings(job),
        train_dataset=_dataset(rows.warm_up),
        peft_config=LoraConfig(
            r=job.rank, lora_alpha=job.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.train()
    trainer.train_dataset = _dataset(ordered)
    loss = trainer.train().training_loss
    seconds = clock.ended - clock.began
    return {
        "seconds": seconds,
        "tokens_per_s": rows.train_tokens * job.epochs / seconds,
        "train_loss": loss,
    }


def _settings(job: Job) -> SFTConfig:
    changed: dict[str, object] = {}
    if job.options.get("gradient_checkpointing") == "no":
        changed["gradient_checkpointing"] = False
    if "dtype" in job.options:
        changed["model_init_kwargs"] = {"dtype": job.options["dtype"]}
    if "sorted" in job.options:
        changed["train_sampling_strategy"] = "sequential"
    return SFTConfig(
        output_dir=job.scratch,
        per_device_train_batch_size=job.batch_size,
        num_train_epochs=job.epochs,
        learning_rate=job.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=job.max_grad_norm,
        max_length=job.max_length,
        seed=job.seed,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **changed,
    )


def _dataset(rows: Sequence[Row]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "input_ids": list(row.token_ids),
                "labels": [
                    token if learned else IGNORED for token, learned in zip(row.token_ids, row.answer, strict=True)
                ],
            }
            for row in rows
        ]
    )
