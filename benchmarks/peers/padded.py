"""Padded batches and a plain model: what the loops of other trainers are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.exchange import Job, Row
from benchmarks.peers.rows import IGNORED, labels_of


def plain_model(folder: str, dtype: torch.dtype) -> PreTrainedModel:
    """The base as transformers loads it, with sdpa attention."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return model


def adapted_model(job: Job) -> PeftModel:
    """The base in bfloat16 with fresh adapters by PEFT, in bfloat16 unless the job asks for float32."""
    torch.manual_seed(job.seed)
    config = LoraConfig(
        r=job.rank, lora_alpha=job.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted: PeftModel = get_peft_model(
        plain_model(job.base_folder, torch.bfloat16),
        config,
        autocast_adapter_dtype=job.options.get("adapters") == "float32",
    )
    return adapted


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """input_ids, attention_mask and labels, padded on the right to the longest row."""
    longest = max(len(row.token_ids) for row in rows)
    shape = (len(rows), longest)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for place, row in enumerate(rows):
        length = len(row.token_ids)
        ids[place, :length] = torch.tensor(row.token_ids)
        mask[place, :length] = 1
        labels[place, :length] = torch.tensor(labels_of(row))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def sorted_batches(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """Batches of rows of like length."""
    ordered = sorted(rows, key=lambda row: len(row.token_ids))
    return [ordered[first : first + batch_size] for first in range(0, len(ordered), batch_size)]
