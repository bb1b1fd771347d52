"""Bottlenecks and experts: batch 8, twice 4, and two processes with 4 each give the same parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from fits import local, make_job
from safetensors.torch import load_file
from torch import Tensor
from two_ranks import TwoRanks

from tunesmith.models.tiny import tiny_moe_model
from tunesmith.train.loop import fit

DENSE = {
    "houlsby": {"kind": "bottleneck", "size": 4, "places": "houlsby"},
    "lora-experts": {"kind": "lora-experts", "new_experts": 3, "rank": 2, "top_k": 1},
}
# of eight experts two a token: on one rank a chosen one may get nothing
SPARSE = {"experts": {"kind": "experts", "experts": [6, 7], "router": True}}
BALANCED = {"lora-experts balanced": DENSE["lora-experts"], "experts balanced": SPARSE["experts"]}
MORE = {
    "add_ons": {"penalties": {"router_balance": 0.5}},
    "beginning": "You answer the customers of a shop for lamps and fans in one word.",
}
"""A term of the whole window, over rows of which those share a beginning that meet in a pass."""
SETTINGS = {"optimizer": "sgd", "epochs": 1.0}

RANK_PROGRAM = """
import json, sys, torch
from pathlib import Path
from fits import make_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
for name, (base, adapt, more) in json.loads(sys.argv[2]).items():
    settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 4}
    fit(make_job(Path(base), Path(sys.argv[1]) / name, runtime, adapt=adapt, settings=settings,
                 dtype=torch.float64, rows=21, **more))
runtime.close()
"""


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest distance of a tensor, measured in its own length."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-6)) for name in one)


def test_however_a_step_is_cut(base: Path, tmp_path: Path) -> None:
    moe = tiny_moe_model(tmp_path / "moe", experts=8)
    jobs = {name: (str(base), adapt, {}) for name, adapt in DENSE.items()}
    jobs |= {name: (str(moe), adapt, {}) for name, adapt in SPARSE.items()}
    jobs |= {name: (str(base if "lora" in name else moe), adapt, MORE) for name, adapt in BALANCED.items()}
    assert TwoRanks(RANK_PROGRAM, str(tmp_path / "pair"), json.dumps(jobs)).ended() == [0, 0]
    for name, (model, adapt, more) in jobs.items():
        found = []
        for batch, accumulated in ((8, 1), (4, 2)):
            settings = {**SETTINGS, "batch_size": batch, "gradient_accumulation_steps": accumulated}
            folder = tmp_path / f"{name} {batch}"
            job = make_job(
                Path(model), folder, local(), adapt=adapt, settings=settings, dtype=torch.float64, rows=21, **more
            )  # type: ignore[arg-type]
            fit(job)
            found.append({each: master.detach() for each, master in job.optimizer.masters.items()})
        (checkpoint,) = (tmp_path / "pair" / name).glob("checkpoint-*")
        found.append(load_file(checkpoint / "masters.safetensors"))
        assert difference(found[0], found[1]) < 1e-9 and difference(found[0], found[2]) < 1e-9, name
