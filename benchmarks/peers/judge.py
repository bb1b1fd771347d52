"""The referee: plain transformers and PEFT in float32, one row at a time, whoever trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from benchmarks.exchange import Row
from benchmarks.peers.padded import collate, plain_model
from benchmarks.peers.rows import IGNORED


def row_losses(model: PreTrainedModel | PeftModel, rows: Sequence[Row]) -> list[float]:
    """Mean loss of the learned tokens of each row, from float32 logits."""
    losses = []
    with torch.inference_mode():
        for row in rows:
            batch = collate([row])
            logits_TV = model(input_ids=batch["input_ids"], use_cache=False).logits[0, :-1].float()
            labels_T = batch["labels"][0, 1:]
            losses.append(float(torch.nn.functional.cross_entropy(logits_TV, labels_T, ignore_index=IGNORED)))
    return losses


def adapter_losses(base_folder: str, adapter_folder: str, rows: Sequence[Row]) -> list[float]:
    """Losses of the base with an adapter as it lies on disk."""
    model = PeftModel.from_pretrained(plain_model(base_folder, torch.float32), adapter_folder)
    return row_losses(model.eval(), rows)
