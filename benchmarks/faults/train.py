"""One training by one trainer, as its own documentation shows it: started, killed and started again by `peers.py`.

    python -m benchmarks.faults.train transformers|trl BASE FOLDER [--resume]

Every run has the same rows, seed and steps, so that an unbroken run and one that was resumed can be compared by bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

STEPS, SAVE_EVERY, ROWS, BATCH = 24, 4, 48, 4


def rows() -> list[dict[str, str]]:
    """Questions and answers."""
    return [
        {"prompt": f"What is {number} plus {number}?", "completion": f" It is {2 * number}."} for number in range(ROWS)
    ]


def with_transformers(base: Path, folder: Path, *, resume: bool) -> None:
    """transformers' Trainer on token ids and labels."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(str(base), local_files_only=True)
    data = []
    for row in rows():
        ids = tokenizer(row["prompt"] + row["completion"])["input_ids"][:24]
        ids = ids + [tokenizer.pad_token_id] * (24 - len(ids))
        data.append({"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)})
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, save_steps=SAVE_EVERY, per_device_train_batch_size=BATCH, seed=1,
        logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-3,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "final"))


def with_trl(
    base: Path, folder: Path, *, resume: bool, rows_of: list[dict[str, str]] | None = None, length: int = 128
) -> None:
    """TRL's SFTTrainer on prompts and completions."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(folder), max_steps=STEPS, save_steps=SAVE_EVERY, per_device_train_batch_size=BATCH, seed=1,
        logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-3, max_length=length,
        bf16=False,
    )  # fmt: skip
    trainer = SFTTrainer(model=str(base), args=arguments, train_dataset=Dataset.from_list(rows_of or rows()))
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "final"))
    (folder / "log.json").write_text(json.dumps(trainer.state.log_history), "utf-8")


TRAINERS = {"transformers": with_transformers, "trl": with_trl}

if __name__ == "__main__":
    torch.set_num_threads(1)
    TRAINERS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), resume="--resume" in sys.argv)
