"""TRL's SFTTrainer. Only what every system is given is set (rank, batch, step size, schedule, rows); the rest is TRL's.

    default             float32 weights under bfloat16 autocast, activation checkpointing, random order
    gradient_checkpointing: no
    dtype: bfloat16     weights loaded in bfloat16
    sorted: yes         batches of rows of like length. `train_sampling_strategy="group_by_length"` sorts within 50
                        batches on a long file and not at all on one as short as this; so the rows come sorted.

Rows come with `input_ids` and `labels`, which TRL takes as they are.
"""

from __future__ import annotations

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from benchmarks.exchange import Figures, Job, read_rows
from benchmarks.peers.clock import StepClock
from benchmarks.peers.rows import with_labels


def train(job: Job) -> Figures:
    """The trainer runs twice: once over the warm-up rows, then over the timed ones."""
    rows = read_rows(job.rows)
    ordered = sorted(rows.train, key=lambda row: len(row.token_ids)) if "sorted" in job.options else rows.train
    clock = StepClock()
    trainer = SFTTrainer(
        model=job.base_folder,
        args=_settings(job),
        train_dataset=Dataset.from_list(with_labels(rows.warm_up)),
        peft_config=LoraConfig(
            r=job.rank, lora_alpha=job.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        callbacks=[clock],
    )
    trainer.train()
    trainer.train_dataset = Dataset.from_list(with_labels(ordered))
    loss = trainer.train().training_loss
    return {
        "seconds": clock.seconds,
        "tokens_per_s": rows.train_tokens * job.epochs / clock.seconds,
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
