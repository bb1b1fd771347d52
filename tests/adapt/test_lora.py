"""LoRA and its variants: what is written is what was trained, as PEFT itself reads it over the untouched base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fits import local, make_job
from peft import PeftModel
from torch import Tensor

from tunesmith.models.load import load_model, resolve_base
from tunesmith.ship.evaluated import load_evaluated
from tunesmith.ship.merge import merge_into
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

VARIANTS = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "pissa", "use_rslora": True},
    {"init_lora_weights": "pissa", "use_dora": True},
    {"init_lora_weights": "olora", "use_dora": True, "use_rslora": True},
    {"target_modules": "mlp"},
]


def logits_of(model: torch.nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: "-".join(map(str, each.values())) or "plain")
def test_peft_reads_what_was_trained(base: Path, tmp_path: Path, variant: dict[str, object]) -> None:
    job = make_job(base, tmp_path / "fit", local(), adapt={"rank": 4, **variant})
    ids = torch.arange(3, 40)[None]
    untouched = load_model(base, dtype=torch.float32).model
    with job.policy.answering() as model:
        start = logits_of(model, ids)
    assert torch.allclose(start, logits_of(untouched, ids), atol=1e-5), "before the first step nothing has changed"
    fit(job)
    with job.policy.answering() as model:
        trained = logits_of(model, ids)
    assert (trained - start).abs().max() > 0.1
    change = checkpoint_paths(tmp_path / "fit")[-1]
    read = PeftModel.from_pretrained(untouched, change)
    assert torch.allclose(logits_of(read.eval(), ids), trained, atol=2e-4)
    evaluated = load_evaluated(resolve_base(str(base)), change)
    assert torch.allclose(logits_of(evaluated, ids), trained, atol=2e-4)
    merged = merge_into(load_model(base, dtype=torch.float32), resolve_base(str(base)), change)
    assert torch.allclose(logits_of(merged.model, ids), trained, atol=2e-4)
