"""Terms of a whole step beside each other and much else: however the step is run, the update is the same."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from children import python_path
from class_fits import make_class_job
from fits import local, make_job
from router_choices import watch_choices
from safetensors.torch import load_file
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.models.packed import Packed
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model, tiny_moe_model
from tunesmith.objectives.adversarial import Adversarial
from tunesmith.objectives.balance import Balanced
from tunesmith.train import build
from tunesmith.train.look_ahead import LookAhead, WindowTerm
from tunesmith.train.loop import Job, fit

OLD = [{"path": "old.jsonl"}]
MIXED = {"kind": "lora-experts", "new_experts": 3, "rank": 2, "top_k": 1}
DOMAINS = {
    "kind": "adversarial",
    "target_sources": [{"path": "other.jsonl"}],
    "reversal": {"hidden_size": 16, "learning_rate": 0.1},
    "kl": 0.3,
    "mmd": {"weight": 2.0},
}
"""Balance, KL, MMD and a reversed gradient, over experts that a dense model grows."""
CLASSES: dict[str, object] = {
    "adapt": MIXED, "objective": DOMAINS, "penalties": {"router_balance": 0.5, "l2": 0.01, "l2_sp": 0.1},
}  # fmt: skip
"""Balance beside a teacher, replayed rows told apart and what an old task needs, over a model that has experts."""
CHATS: dict[str, object] = {
    "adapt": {"kind": "lora", "rank": 2},
    "add_ons": {
        "penalties": {"router_balance": 0.5, "ewc": {"weight": 3.0, "sources": OLD, "rows": 4}, "l1": 0.001},
        "replay": {"sources": OLD, "share": 0.25},
        "objective": {"kind": "distill", "teacher": "t"},
    },
}
PLAIN: dict[str, object] = {"optimizer": "sgd", "epochs": 1.0}
CUTS: dict[str, dict[str, object]] = {
    "8": {"batch_size": 8},
    "2 x 4": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "8 x 1": {"batch_size": 1, "gradient_accumulation_steps": 8},
    "auto": {"batch_size": "auto"},
    "auto, cut": {"batch_size": "auto"},
    "8 x 2": {"batch_size": 8, "gradient_accumulation_steps": 2},
}
NEAR = {"classes": 1e-9, "chats": 1e-5}
"""In float64, and in float32: torch multiplies groups of experts in no wider format."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "dense": tiny_chat_model(folder / "dense", spread=0.1),
        "moe": tiny_moe_model(folder / "moe"),
        "teacher": tiny_chat_model(folder / "teacher", spread=0.3, seed=9),
    }


def make(models: Mapping[str, Path], name: str, folder: Path, cut: str) -> Job:
    settings = {**PLAIN, **CUTS[cut]}
    if name == "classes":
        job = make_class_job(
            models["dense"], folder, local(), "text_class", settings=settings, dtype=torch.float64, rows=21,
            **CLASSES,  # type: ignore[arg-type]
        )  # fmt: skip
    else:
        job = make_job(
            models["moe"], folder, local(), settings=settings, rows=21,
            teacher=models["teacher"], **CHATS,  # type: ignore[arg-type]
        )  # fmt: skip
    if cut == "auto, cut":
        job.passes.replay({"limits": [[0, 90]]})
        assert len(job.passes.cut(0, job.source.window(0))) > 2
    return job


def masters(job: Job) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in job.optimizer.masters.items()}


def distance(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest distance of a tensor, measured in its own length."""
    assert found.keys() == wanted.keys()
    return max(float((each - found[name]).norm() / each.norm().clamp_min(1e-12)) for name, each in wanted.items())


RANK_PROGRAM = """
import json, sys, torch
from pathlib import Path
from class_fits import make_class_job
from fits import make_job
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
given = json.loads(sys.argv[1])
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
for size in (4, "auto"):
    settings, folder = {**given["plain"], "batch_size": size}, Path(given["folder"]) / str(size)
    fit(make_class_job(Path(given["dense"]), folder / "classes", runtime, "text_class", settings=settings, rows=21,
                       dtype=torch.float64, **given["classes"]))
    fit(make_job(Path(given["moe"]), folder / "chats", runtime, settings=settings, rows=21,
                 teacher=Path(given["teacher"]), **given["chats"]))
runtime.close()
"""


@pytest.fixture(scope="module")
def pair(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both recipes as two processes run them, four rows each and as many as memory allows of eight each."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = python_path()
    paths = {name: str(path) for name, path in models.items()}
    given = {"plain": PLAIN, "folder": str(folder), "classes": CLASSES, "chats": CHATS, **paths}
    command = [sys.executable, "-c", RANK_PROGRAM, json.dumps(given)]
    ranks = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    return folder


@pytest.mark.parametrize("name", ["classes", "chats"])
def test_however_a_step_is_run(models: Mapping[str, Path], pair: Path, name: str, tmp_path: Path) -> None:
    ends: dict[str, dict[str, Tensor]] = {}
    for cut in CUTS:
        job = make(models, name, tmp_path / cut, cut)
        fit(job)
        ends[cut] = masters(job)
    for size in ("4", "auto"):
        (checkpoint,) = (pair / size / name).glob("checkpoint-*")
        ends[f"two processes, {size}"] = load_file(checkpoint / "masters.safetensors")
    sixteen = ("8 x 2", "two processes, auto")
    apart = {cut: distance(found, ends["8 x 2" if cut in sixteen else "8"]) for cut, found in ends.items()}
    assert max(apart.values()) <= NEAR[name], apart


def test_one_recipe_has_all_its_terms_in_every_step(models: Mapping[str, Path], tmp_path: Path) -> None:
    for name, terms in (
        ("classes", ("task", "domain", "kl", "mmd", "router_balance", "l2", "l2_sp", "lambda", "domain_accuracy")),
        ("chats", ("cross_entropy", "divergence", "router_balance", "ewc", "l1", "loss_of_new_rows")),
    ):
        seen: list[Event] = []
        job = make(models, name, tmp_path / name, "2 x 4")
        fit(replace(job, emitter=Events(None, (seen.append,))), until=2)
        for event in (each for each in seen if each.kind == "step"):
            assert all(name in event.values for name in terms), event.values


def test_what_looks_is_asked_once_a_pass_and_only_where_a_step_has_several(
    models: Mapping[str, Path], tmp_path: Path
) -> None:
    for cut, read in (("8", 0), ("2 x 4", 2), ("auto", 0), ("auto, cut", 2)):
        job = make(models, "classes", tmp_path / cut, cut)
        batches = job.passes.cut(0, job.source.window(0))
        assert job.look_ahead.reads(batches) == read, "balance, and KL and MMD together"
        plain = job.meter(0).of_batches(batches)
        assert (job.meter(0).of_batches(batches, reads=read).executed > plain.executed) == bool(read)


# ------------------------------------------------------------------------------------------- as memory allows


REFUSED = (
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)
AUTO: dict[str, object] = {**PLAIN, "batch_size": "auto", "gradient_accumulation_steps": 2}
BALANCED: dict[str, object] = {"penalties": {"router_balance": 0.5}}


class Refusing:
    """A term that is refused memory from so many tokens on while it looks."""

    looks_ahead = True

    def __init__(self, term: Balanced, too_many: int) -> None:
        self._term = term
        self._too_many = too_many
        self.begin, self.know = term.begin, term.know
        self.asked: list[int] = []

    def look(self, policy: Policy, batch: Packed) -> tuple[Tensor, ...]:
        """As the term does, if there is room."""
        self.asked.append(batch.num_tokens)
        if batch.num_tokens >= self._too_many:
            raise RuntimeError(REFUSED)
        return self._term.look(policy, batch)


def refusing(job: Job, too_many: int) -> tuple[Job, Refusing]:
    assert isinstance(job.objective, Balanced)
    term = Refusing(job.objective, too_many)
    assert isinstance(term, WindowTerm) and isinstance(job.policy, Policy)
    ahead = LookAhead([term], job.policy, job.runtime, job.spec.seed, job.total_steps)
    return replace(job, look_ahead=ahead), term


@pytest.fixture
def small_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of sixteen rows takes several passes."""
    monkeypatch.setattr(build, "most_at_once", lambda device: 600)


def balanced(models: Mapping[str, Path], folder: Path, **more: object) -> Job:
    arguments: dict[str, object] = {
        "adapt": MIXED, "settings": AUTO, "add_ons": BALANCED, "dtype": torch.float64, "rows": 32, **more,
    }  # fmt: skip
    return make_job(models["dense"], folder, local(), **arguments)  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_passes")
def test_a_look_that_is_refused_memory_leaves_no_trace(models: Mapping[str, Path], tmp_path: Path) -> None:
    plain = balanced(models, tmp_path / "8", settings={**AUTO, "batch_size": 8})
    fit(plain)
    seen: list[Event] = []
    made = balanced(models, tmp_path / "auto", emitter=Events(None, (seen.append,)))
    job, term = refusing(made, 300)
    fit(job)
    assert distance(masters(made), masters(plain)) <= 1e-12
    changes = [event.values for event in seen if event.kind == "batch" and event.values["reason"] != "start"]
    assert changes and all(each["reason"] == "refused" for each in changes)
    assert max(term.asked) >= 300 and int(str(changes[-1]["tokens"])) < 300

    again = balanced(models, tmp_path / "again")
    again.passes.replay(made.passes.state())
    fit(again)
    assert all(torch.equal(each, masters(made)[name]) for name, each in masters(again).items()), "what was seen too"


@pytest.mark.usefixtures("small_passes")
def test_a_row_that_cannot_be_looked_at_is_an_error_in_words(models: Mapping[str, Path], tmp_path: Path) -> None:
    job, _ = refusing(balanced(models, tmp_path / "auto"), 1)
    with pytest.raises(TunesmithError, match=r"train\.out_of_memory"):
        fit(job)
    fixed = balanced(models, tmp_path / "8", settings={**AUTO, "batch_size": 8})
    with pytest.raises(TunesmithError, match=r"train\.out_of_memory_fixed"):
        fit(refusing(fixed, 1)[0])


def test_with_dropout_passes_of_auto_are_read_as_they_are_run(models: Mapping[str, Path], tmp_path: Path) -> None:
    """Choices depend on what is dropped: what is read is what is then run."""
    adapt = {"kind": "lora", "rank": 2, "lora_dropout": 0.5, "init_lora_weights": "gaussian"}
    job = make_job(models["moe"], tmp_path, local(), adapt=adapt, settings=AUTO, add_ons=BALANCED, rows=16)
    job.passes.replay({"limits": [[0, 150]]})
    chosen = watch_choices(job)
    fit(job, until=1)
    assert chosen["look"] == chosen["loss"] and len(chosen["look"]) > 2


def test_terms_are_found_wherever_they_stand(models: Mapping[str, Path], tmp_path: Path) -> None:
    job = make(models, "classes", tmp_path, "8")
    terms = job.look_ahead._terms
    assert [type(each) for each in terms] == [Adversarial, Balanced]
    assert all(isinstance(each, WindowTerm) for each in terms)
