"""Stages in a row under a launcher: two processes end where one does, and where they would have without a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from stage_rows import RELATED, stage, write_chain
from torch import Tensor

from tunesmith import lifecycle
from tunesmith.core.events import read_events
from tunesmith.core.files import folder_hashes
from tunesmith.core.run import METRICS, Run, list_runs

NORMS, LORA = "adapt: {kind: subset, parts: [norm]}", "adapt: {kind: lora, rank: 4}"
PATIENCE = 100
"""Seconds."""


def chain(folder: Path, batch_size: int, runtime: str) -> Path:
    """The norms, then a LoRA over what they became, then the same LoRA on: one merge and one change handed on."""
    stages = (stage("norms", RELATED, NORMS), stage("related", RELATED, LORA), stage("instruct", LORA))
    folder.mkdir()
    recipe = write_chain(folder, *stages)
    text = recipe.read_text("utf-8").replace("batch_size: 8", f"batch_size: {batch_size}, optimizer: sgd")
    recipe.write_text(text.replace("device: cpu", f"device: cpu, kind: {runtime}"), "utf-8")
    return recipe


def planned(recipe: Path) -> Run:
    """A run with data and plan, ready for the launcher."""
    runs = recipe.parent / "runs"
    command = [sys.executable, "-m", "tunesmith", "plan", str(recipe), "--runs", str(runs)]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
    (run,) = list_runs(runs)
    return run


def steps_of(run: Run, name: str) -> list[object]:
    """The steps of a stage as they were told."""
    told = (event.values for event in read_events(run.path / METRICS, "step"))
    return [each["step"] for each in told if each["stage"] == name]


KILLED = """
import os, signal, sys
from pathlib import Path
from tunesmith import lifecycle, work

def listen(event):
    if event.kind == "step" and (event.values.get("stage"), event.values["step"]) == ("related", 3):
        os.kill(os.getpid(), signal.SIGKILL)

run = work.reopen(Path(sys.argv[1]), (listen,))
for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
    stage(run)
"""
"""What a rank runs: the first one, which tells the steps, dies at one of them."""


def train(run: Run, *program: str) -> int:
    """Two ranks run a program over the run, in a session of their own; returns how the launcher ended."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, *program, str(run.path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as ranks:
        try:
            return ranks.wait(timeout=PATIENCE)
        except BaseException:
            os.killpg(ranks.pid, signal.SIGKILL)
            raise


TRAIN = ("-m", "tunesmith", "train")


def masters(folder: Path) -> dict[str, Tensor]:
    newest = max(folder.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
    return load_file(newest / "masters.safetensors")


def test_two_ranks_go_through_the_stages_as_one_does(tmp_path: Path) -> None:
    pair = planned(chain(tmp_path / "pair", 4, "distributed"))
    assert train(pair, *TRAIN) == 0
    recipe = chain(tmp_path / "alone", 8, "local")
    work = lifecycle.start(recipe, (), recipe.parent / "runs", ())
    for part in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        part(work)
    for name in ("norms", "related", "instruct"):
        found, wanted = masters(pair.path / name), masters(work.path / name)
        assert found.keys() == wanted.keys() and steps_of(pair, name) == steps_of(work.run, name)
        for key, each in wanted.items():
            assert (each - found[key]).norm() <= 1e-4 * each.norm().clamp_min(1e-6), f"{name} {key}"
    merged, other = (load_file(each / "norms" / "merged" / "model.safetensors") for each in (pair.path, work.path))
    assert all((each - merged[name]).norm() <= 1e-4 * each.norm() for name, each in other.items())
    assert (pair.path / "related" / "best" / "masters.safetensors").is_file()

    broken = planned(chain(tmp_path / "broken", 4, "distributed"))
    script = tmp_path / "killed.py"
    script.write_text(KILLED, "utf-8")
    assert train(broken, str(script)) != 0
    assert broken.stage("train/norms") is not None and broken.stage("train/related") is None
    assert train(broken, *TRAIN) == 0
    for name in ("norms/merged", "norms/best", "related/best", "instruct/best"):
        assert folder_hashes(broken.path / name) == folder_hashes(pair.path / name), name
    resumed = [each.values for each in read_events(broken.path / METRICS, "resume")]
    assert [(each["stage"], each["step"]) for each in resumed] == [("related", 2)]
