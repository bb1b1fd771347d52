"""Fits of models with a task head: resumed, cut into parts, spread over processes and checkpointed, always the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from class_fits import KINDS, class_examples, head_of, make_class_job
from fits import local
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from tunesmith.core.files import folder_hashes
from tunesmith.models.heads import ClassPolicy
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.recipe.specs.model import Dropout
from tunesmith.tasks.registry import class_task_of
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

BODIES = ("encoder", "decoder")
PLAIN = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 8}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    return {
        "encoder": tiny_encoder(folder / "encoder", spread=0.1),
        "decoder": tiny_chat_model(folder / "decoder", spread=0.1),
    }


def masters(folder: Path) -> dict[str, Tensor]:
    return load_file(checkpoint_paths(folder)[-1] / "masters.safetensors")


def near(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        assert (each - found[name]).norm() <= tolerance * each.norm().clamp_min(1e-12), name


@pytest.mark.parametrize(
    ("body", "kind", "adapt", "dropout"),
    [
        ("encoder", "text_class", {}, None),
        ("encoder", "text_class", {"kind": "full"}, "own"),
        ("encoder", "token_class", {"kind": "full"}, 0.3),
        ("decoder", "several", {}, None),
        ("decoder", "token_class", {"kind": "subset", "first_layer": -1}, 0.3),
    ],
)
def test_broken_off_and_gone_on(
    bases: dict[str, Path], body: str, kind: str, adapt: dict[str, object], dropout: Dropout | None, tmp_path: Path
) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            job = make_class_job(bases[body], tmp_path / name, local(), kind, adapt=adapt, dropout=dropout)
            fit(job, until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})  # it holds seconds
    assert ends[0] == ends[1]
    moved = masters(tmp_path / "whole")
    assert any("classifier" in name or "score" in name for name in moved), "the head moves whatever the adaptation is"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", BODIES)
def test_eight_rows_are_twice_four(bases: dict[str, Path], body: str, kind: str, tmp_path: Path) -> None:
    for name, parts in (("whole", {}), ("parts", {"batch_size": 4, "gradient_accumulation_steps": 2})):
        settings = {**PLAIN, **parts}
        fit(
            make_class_job(bases[body], tmp_path / name, local(), kind, settings=settings, dtype=torch.float64, rows=21)
        )
    near(masters(tmp_path / "parts"), masters(tmp_path / "whole"))


@pytest.mark.parametrize("body", BODIES)
def test_checkpointed_activations_change_nothing(bases: dict[str, Path], body: str, tmp_path: Path) -> None:
    for name, more in (("kept", {}), ("again", {"gradient_checkpointing": True})):
        settings = {**PLAIN, **more}
        job = make_class_job(bases[body], tmp_path / name, local(), "token_class", settings=settings, rows=16)
        assert job.policy.model.is_gradient_checkpointing is bool(more)
        fit(job)
    near(masters(tmp_path / "again"), masters(tmp_path / "kept"), 1e-6)


@pytest.mark.parametrize("body", BODIES)
def test_a_head_alone_learns_what_it_would_without_kept_activations(
    bases: dict[str, Path], body: str, tmp_path: Path
) -> None:
    for blocks in ("auto", "plain"):
        settings = {"optimizer": "sgd", "blocks": blocks}
        head_alone = {"kind": "subset", "parts": ["head"]}
        fit(make_class_job(bases[body], tmp_path / blocks, local(), "token_class", settings=settings, adapt=head_alone))
    near(masters(tmp_path / "auto"), masters(tmp_path / "plain"), 1e-5)


RANK_PROGRAM = """
import sys, torch
from pathlib import Path
from class_fits import make_class_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
for body, kind in PAIRS:
    job = make_class_job(Path(sys.argv[1]) / body, Path(sys.argv[2]) / f"{body}-{kind}", runtime, kind,
                         settings={**PLAIN, "batch_size": 4}, dtype=torch.float64, rows=21)
    fit(job)
runtime.close()
"""
PAIRS = [("encoder", "text_class"), ("encoder", "token_class"), ("decoder", "several"), ("decoder", "token_class")]


def test_two_processes_of_four_rows_equal_one_of_eight(bases: dict[str, Path], tmp_path: Path) -> None:
    program = RANK_PROGRAM.replace("PAIRS", repr(PAIRS)).replace("PLAIN", repr(PLAIN))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    helpers = str(Path(__file__).parents[1] / "helpers")
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", program, str(bases["encoder"].parent), str(tmp_path / "pair")]
    ranks = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    for body, kind in PAIRS:
        folder = tmp_path / "alone" / f"{body}-{kind}"
        fit(make_class_job(bases[body], folder, local(), kind, settings=PLAIN, dtype=torch.float64, rows=21))
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    for body, kind in PAIRS:
        name = f"{body}-{kind}"
        near(masters(tmp_path / "pair" / name), masters(tmp_path / "alone" / name))


@pytest.mark.parametrize("kind", KINDS)
def test_label_smoothing_is_torchs(bases: dict[str, Path], kind: str, tmp_path: Path) -> None:
    job = make_class_job(
        bases["encoder"], tmp_path, local(), kind, objective={"label_smoothing": 0.2}, dtype=torch.float64
    )
    policy = job.policy
    assert isinstance(policy, ClassPolicy)
    task = class_task_of(bases["encoder"], head_of(kind), 96, bases["encoder"])
    batch = task.pack([task.encode(each).features for each in class_examples(kind)[:6]])
    scores = policy.logits(batch)
    if kind == "several":
        wanted = batch.target.double() * 0.8 + 0.1
        expected = binary_cross_entropy_with_logits(scores, wanted, reduction="none").mean(-1)
    else:
        expected = cross_entropy(scores, batch.target, reduction="none", label_smoothing=0.2)
    torch.testing.assert_close(job.objective.loss(policy, batch)["loss"], (expected * batch.weight).sum())


def test_dropout_layers_of_the_model_stand_still(bases: dict[str, Path], tmp_path: Path) -> None:
    policy = make_class_job(bases["encoder"], tmp_path, local(), "text_class").policy
    shares = [module.p for module in policy.modules() if isinstance(module, torch.nn.Dropout)]
    assert policy.training and shares and not any(shares)


def test_dropout_is_drawn_anew_in_every_pass_and_not_in_validation(bases: dict[str, Path], tmp_path: Path) -> None:
    ends = {}
    for name, dropout in (("off", None), ("own", "own"), ("again", "own"), ("stated", 0.5)):
        job = make_class_job(bases["encoder"], tmp_path / name, local(), "text_class", dropout=dropout)  # type: ignore[arg-type]
        assert job.validate() == job.validate()
        fit(job)
        ends[name] = masters(tmp_path / name)
    near(ends["again"], ends["own"], 0.0)
    for name in ("own", "stated"):
        assert all((each - ends["off"][key]).norm() > 0 for key, each in ends[name].items()), name
