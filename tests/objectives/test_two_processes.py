"""Two processes with four rows each do what one does with eight: penalties count once, a repeated row asks nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from safetensors.torch import load_file
from two_ranks import TwoRanks

from tunesmith.models.tiny import tiny_chat_model
from tunesmith.train.loop import fit

OLD = [{"path": "old.jsonl"}]
ADD_ONS: dict[str, dict[str, object]] = {
    "held and replayed": {
        "penalties": {"ewc": {"weight": 3.0, "sources": OLD, "rows": 4}, "l2_sp": 0.2, "l2": 0.1, "l1": 0.01},
        "replay": {"sources": OLD, "share": 0.25},
    },
    "kept teacher": {"objective": {"kind": "distill", "teacher": "t", "top_k": 8}},
    "teacher in memory": {"objective": {"kind": "distill", "teacher": "t"}},
}
SETTINGS = {"optimizer": "sgd", "epochs": 1.0}

RANK_PROGRAM = """
import sys, torch
from pathlib import Path
from fits import make_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
for name, add_ons in ADD_ONS.items():
    job = make_job(Path(sys.argv[1]), Path(sys.argv[3]) / name, runtime, settings={**SETTINGS, "batch_size": 4},
                   dtype=torch.float64, rows=21, add_ons=add_ons, teacher=Path(sys.argv[2]))
    fit(job)
runtime.close()
"""

VALIDATION_PROGRAM = """
import json, sys, torch
from functools import partial
from pathlib import Path
from tunesmith.models.packed import Features, pack
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.passes import FixedPasses
from tunesmith.train.validation import Validator, no_task_metric

class TermByRow:
    def count(self, batch):
        return {self.name(batch): 1.0}
    def loss(self, policy, batch):
        return {self.name(batch): batch.row.float().sum()}
    def name(self, batch):
        return ("even", "odd")[int(batch.row) % 2]

runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
passes = FixedPasses(partial(pack, share=False), runtime, 1, 1)
for rows in (1, 2, 7):
    features = [Features(row, (1,) * (row + 2), (0.0,) + (1.0,) * (row + 1)) for row in range(rows)]
    found = Validator(torch.nn.Identity(), TermByRow(), runtime, features, passes, no_task_metric)()
    (Path(sys.argv[1]) / f"{runtime.rank}-{rows}").write_text(json.dumps(found))
runtime.close()
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return tiny_chat_model(folder / "base", spread=0.1), tiny_chat_model(folder / "teacher", spread=0.3, seed=9)


def test_two_gloo_processes_equal_one(models: tuple[Path, Path], tmp_path: Path) -> None:
    base, teacher = models
    program = RANK_PROGRAM.replace("ADD_ONS", repr(ADD_ONS)).replace("SETTINGS", repr(SETTINGS))
    ranks = TwoRanks(program, str(base), str(teacher), str(tmp_path / "pair"))
    for name, add_ons in ADD_ONS.items():
        job = make_job(
            base, tmp_path / "alone" / name, local(), settings={**SETTINGS, "batch_size": 8}, dtype=torch.float64,
            rows=21, add_ons=add_ons, teacher=teacher,
        )  # fmt: skip
        fit(job)
    assert ranks.ended() == [0, 0]
    for name in ADD_ONS:
        (checkpoint,) = (tmp_path / "pair" / name).glob("checkpoint-*")
        (expected,) = (tmp_path / "alone" / name).glob("checkpoint-*")
        found, wanted = (load_file(each / "masters.safetensors") for each in (checkpoint, expected))
        for key, each in wanted.items():
            assert (each - found[key]).norm() <= 1e-9 * each.norm().clamp_min(1e-12), f"{name} {key}"


def test_validation_means_are_those_of_all_rows_whoever_holds_them(tmp_path: Path) -> None:
    """With one row the second process has none; with two each knows another term; with seven none begins alike."""
    assert TwoRanks(VALIDATION_PROGRAM, str(tmp_path)).ended() == [0, 0]
    wanted = {1: {"even": 0.0, "loss": 0.0}, 2: {"even": 0.0, "loss": 1.0, "odd": 1.0}}
    wanted[7] = {"even": 3.0, "loss": 6.0, "odd": 3.0}
    for rows, means in wanted.items():
        for rank in range(2):
            assert json.loads((tmp_path / f"{rank}-{rows}").read_text()) == means, (rank, rows)
