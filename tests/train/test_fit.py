"""The loop: the loss contract, exact resume, bad numbers, and what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from children import python_path
from fits import local, make_job
from safetensors.torch import load_file
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.packed import pack
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.train.batching import micro_batches
from tunesmith.train.certify import certify
from tunesmith.train.loop import Job, fit


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


def same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        distance = (left[name] - right[name]).norm() / right[name].norm().clamp_min(1e-12)
        assert distance <= tolerance, f"{name}: {distance}"


def masters(job: Job) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in job.optimizer.masters.items()}


LAYOUTS = {
    "2 x 4 accumulated": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "8 x 1": {"batch_size": 1, "gradient_accumulation_steps": 8},
    "one row at a time": {"batch_size": 8, "packing": False},
    "activations computed again": {"batch_size": 8, "gradient_checkpointing": True},
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_the_layout_of_a_step_does_not_change_it(
    base: Path, tmp_path: Path, dtype: torch.dtype, tolerance: float
) -> None:
    # SGD: Adam's first steps are signs of gradients, which turn rounding of a zero into a whole step.
    settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 8}
    whole = make_job(base, tmp_path / "whole", local(), settings=settings, dtype=dtype, rows=20)
    fit(whole)
    for name, layout in LAYOUTS.items():
        job = make_job(base, tmp_path / name, local(), settings={**settings, **layout}, dtype=dtype, rows=20)
        fit(job)
        same(masters(job), masters(whole), tolerance)


RANK_PROGRAM = """
import sys, torch
from pathlib import Path
from fits import make_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 4}
fit(make_job(Path(sys.argv[1]), Path(sys.argv[2]), runtime, settings=settings, dtype=torch.float64, rows=21))
runtime.close()
"""


def test_two_gloo_processes_equal_one(base: Path, tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": 8}
    # 21 rows: in the last step one rank has four rows and the other one.
    alone = make_job(base, tmp_path / "alone", local(), settings=settings, dtype=torch.float64, rows=21)
    fit(alone)
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = python_path()
    command = [sys.executable, "-c", RANK_PROGRAM, str(base), str(tmp_path / "pair")]
    ranks = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    (checkpoint,) = (tmp_path / "pair").glob("checkpoint-*")
    told = json.loads((checkpoint / "state.json").read_text("utf-8"))["progress"]
    parts = [micro_batches(alone.source.window(step), 4, rank, 2) for step in range(3) for rank in range(2)]
    work = alone.meter(0).of_batches([pack(rows) for part in parts for rows in part])
    assert (told["tokens"], told["executed_flops"]) == (work.tokens, work.executed), "the sum over both ranks"
    same(load_file(checkpoint / "masters.safetensors"), masters(alone), 1e-9)


def test_a_fit_up_to_a_step_is_saved_there(base: Path, tmp_path: Path) -> None:
    fit(make_job(base, tmp_path / "fit", local()), until=1)
    assert [path.name for path in (tmp_path / "fit").glob("checkpoint-*")] == ["checkpoint-1"]


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


VICTIM = """
import sys, time
from pathlib import Path
from fits import make_job
from tunesmith.core.events import Events
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.train.loop import fit
def slow(event):
    if event.kind == "step":
        print(event.values["step"], flush=True)
        time.sleep(0.05)
job = make_job(Path(sys.argv[1]), Path(sys.argv[2]), LocalRuntime(RuntimeSpec(device="cpu", threads=1)),
               settings=SETTINGS, adapt={"lora_dropout": 0.1}, emitter=Events(None, (slow,)))
fit(job)
"""
SETTINGS: dict[str, object] = {"epochs": 3.0, "save_steps": 2, "eval_steps": 5, "save_total_limit": 3}


def start_victim(base: Path, folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": python_path()}
    program = VICTIM.replace("SETTINGS", repr(SETTINGS))
    return subprocess.Popen(
        [sys.executable, "-c", program, str(base), str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )


def wait_for_step(victim: subprocess.Popen[str], step: int) -> None:
    assert victim.stdout is not None
    for line in victim.stdout:
        if int(line) >= step:
            return


def test_a_killed_fit_ends_with_the_bytes_of_an_unbroken_one(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path / "unbroken", local(), settings=SETTINGS, adapt={"lora_dropout": 0.1})
    fit(job)
    for step in (1, 7):
        victim = start_victim(base, tmp_path / "broken")
        wait_for_step(victim, step)
        victim.kill()
        victim.communicate()
    victim = start_victim(base, tmp_path / "broken")
    victim.communicate(timeout=100)
    assert victim.returncode == 0
    for name in ("best", "checkpoint-18", "checkpoint-16"):
        left, right = folder_hashes(tmp_path / "broken" / name), folder_hashes(tmp_path / "unbroken" / name)
        left.pop("state.json", None), right.pop("state.json", None)
        assert left == right, name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_leaves(base: Path, tmp_path: Path, number: signal.Signals) -> None:
    program = VICTIM.replace("SETTINGS", repr({**SETTINGS, "save_steps": 1000, "eval_steps": 1000}))
    program += "\n"
    environment = os.environ | {"PYTHONPATH": python_path()}
    victim = subprocess.Popen(
        [sys.executable, "-c", program, str(base), str(tmp_path / "fit")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(victim, 3)
    victim.send_signal(number)
    started = time.monotonic()
    _, trace = victim.communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert "train.interrupted" in trace
    assert list((tmp_path / "fit").glob("checkpoint-*"))


def test_a_signal_after_a_step_that_was_no_good_saves_nothing_and_says_so(base: Path, tmp_path: Path) -> None:
    def spoil(event: Event) -> None:
        if event.kind == "step" and event.values["step"] == 2:
            next(iter(job.policy.parameters())).data.fill_(float("nan"))
        if event.kind == "step" and event.values["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    settings = {**SETTINGS, "max_grad_norm": 1e30}
    job = make_job(base, tmp_path, local(), settings=settings, emitter=Events(None, (spoil,)))
    with pytest.raises(TunesmithError) as error:
        fit(job)
    assert (error.value.code, error.value.facts["step"]) == ("train.interrupted", 2)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_damaged_checkpoint_is_passed_over_and_all_damaged_is_an_error(base: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    job = make_job(base, tmp_path, local(), settings=SETTINGS)
    fit(job, until=6)
    newest = tmp_path / "checkpoint-6" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    again = make_job(base, tmp_path, local(), settings=SETTINGS, emitter=Events(None, (seen.append,)))
    fit(again, until=6)
    assert [event.values["step"] for event in seen if event.kind == "resume"] == [5]
    assert [event.values["checkpoint"] for event in seen if event.kind == "alarm"] == ["checkpoint-6"]
    for checkpoint in tmp_path.glob("checkpoint-*"):
        (checkpoint / "state.json").unlink()
    with pytest.raises(TunesmithError, match="no_valid_checkpoint"):
        fit(make_job(base, tmp_path, local(), settings=SETTINGS))


def test_a_checkpoint_of_another_recipe_is_refused(base: Path, tmp_path: Path) -> None:
    fit(make_job(base, tmp_path, local(), settings=SETTINGS), until=2)
    with pytest.raises(TunesmithError, match="resume_differs"):
        fit(make_job(base, tmp_path, local(), settings=SETTINGS, key="other"))


def test_the_certificate_replays_to_the_same_bytes_and_notices_others(base: Path, tmp_path: Path) -> None:
    fit(make_job(base, tmp_path / "fit", local(), settings=SETTINGS))
    certificate = certify(
        tmp_path / "fit", tmp_path / "aside", lambda folder: make_job(base, folder, local(), settings=SETTINGS)
    )
    assert (certificate.first, certificate.last, certificate.equal) == (16, 18, True)
    other = certify(
        tmp_path / "fit",
        tmp_path / "aside",
        lambda folder: make_job(base, folder, local(), settings={**SETTINGS, "learning_rate": 0.02}),
    )
    assert "masters.safetensors" in other.differing


def test_bad_numbers_are_never_applied_and_end_the_run(base: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    job = make_job(base, tmp_path, local(), settings={"max_grad_norm": 1e30}, emitter=Events(None, (seen.append,)))
    with torch.no_grad():
        next(job.policy.parameters()).fill_(float("nan"))
    before = masters(job)
    with pytest.raises(TunesmithError, match="not_finite"):
        fit(job)
    assert [event.values["applied"] for event in seen if event.kind == "step"] == [False] * 3
    assert all(torch.equal(before[name], each) for name, each in masters(job).items())
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_and_full_learn_and_write_what_the_ecosystem_reads(base: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for kind, files in {"lora": "adapter_model.safetensors", "full": "model.safetensors"}.items():
        job = make_job(base, tmp_path / kind, local(), adapt={"kind": kind}, dtype=dtype)
        first = job.validate()["loss"]
        fit(job)
        assert job.stopper.best_value is not None and job.stopper.best_value < first - 0.3, kind
        assert (tmp_path / kind / "best" / files).is_file()
        plain = AutoModelForCausalLM.from_pretrained(base if kind == "lora" else tmp_path / kind / "best", dtype=dtype)
        if kind == "lora":
            plain = PeftModel.from_pretrained(plain, tmp_path / kind / "best", autocast_adapter_dtype=False)
        batch = pack(job.source.window(0)[:1])
        logits = plain(input_ids=batch.token_ids[None]).logits[0][batch.keep].float()
        with job.policy.answering() as model:
            own = model(input_ids=batch.token_ids[None]).logits[0][batch.keep].float()
        torch.testing.assert_close(own, logits, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 0.05)
