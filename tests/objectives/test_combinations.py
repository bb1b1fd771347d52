"""Penalties, replay and a teacher beside every adaptation: each trains, or is refused with its code."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from fits import local, make_job

from tunesmith.core.events import Event, Events
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.train.loop import fit

OLD = [{"path": "old.jsonl"}]
KINDS: dict[str, dict[str, object]] = {
    "lora with dropout": {"kind": "lora", "rank": 2, "lora_dropout": 0.1},
    "dora": {"kind": "lora", "rank": 2, "use_dora": True},
    "full": {"kind": "full"},
    "last block": {"kind": "subset", "first_layer": -1},
    "prompt": {"kind": "prompt", "num_virtual_tokens": 3},
    "prefix": {"kind": "prefix", "num_virtual_tokens": 3},
    "bottleneck": {"kind": "bottleneck", "size": 4},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "teacher", spread=0.3, seed=9)


@pytest.mark.parametrize("kind", KINDS)
def test_all_together_beside_every_adaptation(base: Path, teacher: Path, tmp_path: Path, kind: str) -> None:
    seen: list[Event] = []
    held = {} if kind == "dora" else {"l2_sp": 0.1}
    add_ons = {
        "penalties": {"l2": 0.01, "l1": 0.001, **held},
        "replay": {"sources": OLD, "share": 0.25},
        "objective": {"kind": "distill", "teacher": "t", "top_k": 8},
    }
    job = make_job(
        base, tmp_path, local(), adapt=KINDS[kind], add_ons=add_ons, teacher=teacher,
        settings={"learning_rate": 1e-3}, emitter=Events(None, (seen.append,)),
    )  # fmt: skip
    fit(job, until=3)
    steps = [event.values for event in seen if event.kind == "step"]
    assert len(steps) == 3
    for each in steps:
        told = [float(str(each[name])) for name in ("cross_entropy", "divergence", "l2", "l1", *held)]
        assert all(math.isfinite(value) for value in told) and each["applied"]


@pytest.mark.parametrize("form", ["nf4", "int8"])
def test_ewc_holds_what_an_addition_makes_of_a_base_in_codes(base: Path, tmp_path: Path, form: str) -> None:
    seen: list[Event] = []
    job = make_job(
        base, tmp_path, local(), adapt={"rank": 2}, quantize=form,  # type: ignore[arg-type]
        add_ons={"penalties": {"ewc": {"weight": 10.0, "sources": OLD, "rows": 3}}},
        emitter=Events(None, (seen.append,)),
    )  # fmt: skip
    fit(job, until=3)
    told = [float(str(event.values["ewc"])) for event in seen if event.kind == "step"]
    assert told[0] == 0.0 and told[-1] > 0, "nothing at the start, then the additions move"
    assert (tmp_path / "fisher" / "tensors.safetensors").is_file()
    assert all(not torch.isnan(each).any() for each in job.optimizer.masters.values())
