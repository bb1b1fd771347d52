"""transformers' Trainer with PEFT on rows with classes: as it comes, or tuned by hand. Prints its figures as JSON.

    python -m benchmarks.peers.class_trainer RUN BASE SEED (default|tuned) EPOCHS ROWS RATE RANK FIRST_LAYER

As it comes means what PEFT and Trainer choose by themselves, LoRA of rank 8 on the queries and values of all blocks and
float32; tuned means the rank and the first block that are named, all linear layers, bfloat16, rows grouped by length.
RUN is a prepared run of Tunesmith: the same rows, the same labels, the same test rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from tunesmith.core.process import available_cores, hold_memory, peak_memory_bytes


class Rows(Dataset[dict[str, object]]):
    """Tokenized texts with the numbers of their labels."""

    def __init__(self, file: Path, tokenizer: PreTrainedTokenizerBase, labels: list[str]) -> None:
        frame = pl.read_parquet(file)
        read = tokenizer(frame["text"].to_list(), truncation=True, max_length=128)
        numbers = [labels.index(each[0]) for each in frame["labels"].to_list()]
        self._rows = [
            {"input_ids": ids, "attention_mask": mask, "labels": number}
            for ids, mask, number in zip(read["input_ids"], read["attention_mask"], numbers, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> dict[str, object]:
        return self._rows[place]


def main() -> None:
    """Train, ask, print."""
    run, base, seed, setting, epochs, rows, rate, rank, first_layer = sys.argv[1:]
    tuned = setting == "tuned"
    torch.set_num_threads(available_cores())
    if tuned:
        hold_memory()
    set_seed(int(seed))
    started = time.perf_counter()
    labels = json.loads((Path(run) / "labels.json").read_text("utf-8"))["labels"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    train, test = (Rows(Path(run) / "data" / f"{split}.parquet", tokenizer, labels) for split in ("train", "test"))
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=len(labels))
    layers = list(range(int(first_layer), model.config.num_hidden_layers))
    targets = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
    config = LoraConfig(task_type="SEQ_CLS")
    if tuned:
        config = LoraConfig(
            r=int(rank), lora_alpha=2 * int(rank), target_modules=targets, layers_to_transform=layers,
            task_type="SEQ_CLS",
        )  # fmt: skip
    wrapped = get_peft_model(model, config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            use_cpu=True,
            num_train_epochs=float(epochs),
            learning_rate=float(rate),
            per_device_train_batch_size=int(rows),
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            seed=int(seed),
            bf16=tuned,
            train_sampling_strategy="group_by_length" if tuned else "random",
        )
        trainer = Trainer(
            model=wrapped, args=arguments, train_dataset=train, data_collator=DataCollatorWithPadding(tokenizer)
        )
        trainer.train()
    seconds = time.perf_counter() - started
    found = trainer.predict(test)
    scores, wanted = (np.asarray(each) for each in (found.predictions, found.label_ids))
    right = (scores.argmax(-1) == wanted).mean()
    print(json.dumps({"seconds": seconds, "accuracy": 100 * float(right), "rss_gb": peak_memory_bytes() / 1e9}))


if __name__ == "__main__":
    main()
