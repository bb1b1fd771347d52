"""Tasks with heads: each its own mean, the same step whatever its layout or its processes, the same bytes after a
resume."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fits import local
from head_fits import make_heads_job
from safetensors.torch import load_file

from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

OBJECTIVE: dict[str, object] = {"task_embeddings": True, "weights": {"names": 2.0}, "label_smoothing": 0.1}
SETTINGS: dict[str, object] = {"optimizer": "sgd", "epochs": 1.0}
ADAPTS: dict[str, dict[str, object]] = {"full": {"kind": "full"}, "lora": {"kind": "lora", "rank": 4}}
NOTHING = 1e-9
"""The bias of keys moves no attention: its gradient is rounding alone."""
NAMES = ("loss/intents", "loss/marks", "loss/names")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiny")
    return {"bert": tiny_encoder(folder / "bert", spread=0.1), "llama": tiny_chat_model(folder / "llama", spread=0.1)}


@pytest.mark.parametrize(("base", "adapt"), [("bert", "full"), ("llama", "lora")])
def test_the_layout_of_a_step_does_not_change_it(base: str, adapt: str, bases: dict[str, Path], tmp_path: Path) -> None:
    layouts = {
        "8": {"batch_size": 8},
        "2 x 4": {"batch_size": 4, "gradient_accumulation_steps": 2},
        "8 x 1": {"batch_size": 1, "gradient_accumulation_steps": 8},
    }
    ends = []
    for name, layout in layouts.items():
        seen: list[Event] = []
        job = make_heads_job(
            bases[base], tmp_path / name, local(), dtype=torch.float64, adapt=ADAPTS[adapt], objective=OBJECTIVE,
            settings={**SETTINGS, **layout}, emitter=Events(None, (seen.append,)),
        )  # fmt: skip
        fit(job)
        ends.append({key: each.detach().clone() for key, each in job.optimizer.masters.items()})
        assert any(key.endswith("task_embeddings.weight") and each.any() for key, each in ends[-1].items())
        steps = [event.values for event in seen if event.kind in ("step", "validation")]
        for values in steps:
            told = [float(str(values[each])) for each in NAMES]
            assert float(str(values["loss"])) == pytest.approx(sum(told))
    for other in ends[1:]:
        for key, each in ends[0].items():
            assert (each - other[key]).norm() <= 1e-9 * each.norm().clamp_min(NOTHING), key


RANK_PROGRAM = """
import sys, torch
from pathlib import Path
from head_fits import make_heads_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
job = make_heads_job(Path(sys.argv[1]), Path(sys.argv[2]), runtime, dtype=torch.float64, adapt={"kind": "full"},
                     objective=OBJECTIVE, settings={**SETTINGS, "batch_size": 4})
fit(job)
runtime.close()
"""


def test_two_processes_equal_one(bases: dict[str, Path], tmp_path: Path) -> None:
    """Of a step of four rows a process may hold no row of a kind, and still every layer has a gradient there."""
    program = RANK_PROGRAM.replace("OBJECTIVE", repr(OBJECTIVE)).replace("SETTINGS", repr(SETTINGS))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    helpers = str(Path(__file__).parents[1] / "helpers")
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, str(bases["bert"]), str(tmp_path / "pair")]
    ranks = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    job = make_heads_job(
        bases["bert"], tmp_path / "alone", local(), dtype=torch.float64, adapt={"kind": "full"}, objective=OBJECTIVE,
        settings={**SETTINGS, "batch_size": 8},
    )  # fmt: skip
    fit(job)
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    found, wanted = (
        load_file(checkpoint_paths(tmp_path / name)[-1] / "masters.safetensors") for name in ("pair", "alone")
    )
    for key, each in wanted.items():
        assert (each - found[key]).norm() <= 1e-9 * each.norm().clamp_min(NOTHING), key


def test_broken_off_and_gone_on(bases: dict[str, Path], tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            fit(make_heads_job(bases["bert"], tmp_path / name, local(), objective=OBJECTIVE), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


def test_with_vectors_that_move_nothing_below_is_kept(bases: dict[str, Path], tmp_path: Path) -> None:
    """What the lower blocks make of a row changes with its task's vector, so it is computed anew each time."""
    top = {"kind": "lora", "rank": 4, "first_layer": -1}
    for vectors in (False, True):
        job = make_heads_job(
            bases["bert"], tmp_path / str(vectors), local(), adapt=top, objective={"task_embeddings": vectors},
            settings={"epochs": 3.0},
        )  # fmt: skip
        assert getattr(job.policy, "blocks_kept") == (0 if vectors else 1)  # noqa: B009
