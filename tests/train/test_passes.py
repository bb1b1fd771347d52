"""However memory cuts a window, the update is the same; and memory never ends a run in silence."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from children import python_path
from fits import local, make_job
from safetensors.torch import load_file
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.messages import render
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.train import TrainSpec
from tunesmith.train import build
from tunesmith.train.budget import Reading
from tunesmith.train.certify import certify
from tunesmith.train.loop import Job, fit

MIB = 2**20
REFUSED = (
    "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
)
AUTO: dict[str, object] = {"optimizer": "sgd", "epochs": 1.0, "batch_size": "auto"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


def masters(job: Job) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in job.optimizer.masters.items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        distance = (left[name] - right[name]).norm() / right[name].norm().clamp_min(1e-12)
        assert distance <= tolerance, f"{name}: {distance}"


def tokens_of(job: Job, step: int = 0) -> int:
    return pack(job.source.window(step)).num_tokens


class Seen:
    """Collects events; `batches` are those of the cut."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    @property
    def emitter(self) -> Events:
        return Events(None, (self.all.append,))

    @property
    def changes(self) -> list[tuple[object, ...]]:
        kinds = [each.values for each in self.all if each.kind == "batch" and each.values["reason"] != "start"]
        return [(each["reason"], each.get("step"), each["tokens_before"], each["tokens"]) for each in kinds]


# ------------------------------------------------------------------------------------------------ the mathematics


def test_auto_stands_for_a_stated_number_of_rows() -> None:
    assert TrainSpec(batch_size="auto").rows_per_step == TrainSpec(batch_size=8).rows_per_step == 8
    assert TrainSpec(batch_size="auto", gradient_accumulation_steps=4).rows_per_step == 32


@pytest.mark.parametrize("pieces", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_cut_does_not_change_the_update(base: Path, tmp_path: Path, pieces: int, kind: str) -> None:
    adapt = {"kind": kind}
    whole = make_job(
        base, tmp_path / "8", local(), settings={**AUTO, "batch_size": 8}, adapt=adapt, dtype=torch.float64, rows=8
    )
    fit(whole)
    job = make_job(base, tmp_path / "auto", local(), settings=AUTO, adapt=adapt, dtype=torch.float64, rows=8)
    limit = next(each for each in range(tokens_of(job), 0, -1) if len(cut_at(job, each)) >= pieces)
    job.passes.replay({"limits": [[0, limit]]})
    assert len(job.passes.cut(0, job.source.window(0))) == pieces
    fit(job)
    same(masters(job), masters(whole), 1e-12)


def cut_at(job: Job, limit: int) -> list[Packed]:
    job.passes.replay({"limits": [[0, limit]]})
    return list(job.passes.cut(0, job.source.window(0)))


def test_with_memory_to_spare_auto_is_batches_of_eight_to_the_bit(base: Path, tmp_path: Path) -> None:
    jobs = [
        make_job(base, tmp_path / str(size), local(), settings={"batch_size": size}, adapt={"lora_dropout": 0.1})
        for size in (8, "auto")
    ]
    for job in jobs:
        fit(job)
    assert all(torch.equal(each, masters(jobs[1])[name]) for name, each in masters(jobs[0]).items())


def test_long_rows_go_in_smaller_groups(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path, local(), settings=AUTO, rows=8)
    window = sorted(job.source.window(0), key=lambda row: len(row.token_ids))
    shortest = len(window[0].token_ids)
    long_row = replace(window[-1], token_ids=window[-1].token_ids * 9, weights=window[-1].weights * 9)
    job.passes.replay({"limits": [[0, len(long_row.token_ids) + shortest // 2]]})
    cut = job.passes.cut(0, [*window[:-1], long_row])
    rows = [int((batch.row >= 0).sum()) for batch in cut]
    assert sum(rows) == 8 and rows[-1] == 1 and max(rows) >= 4


def test_rows_that_share_a_passage_are_cut_apart_last(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path, local(), settings=AUTO)

    def row(number: int, passage: int) -> Features:
        ids = tuple(range(passage, passage + 60)) + tuple((7 * number + place) % 90 + 5 for place in range(10))
        return Features(number, ids, (0.0,) * 61 + (1.0,) * 9)

    rows = [row(number, 100 if number < 3 else 200) for number in range(8)]
    job.passes.replay({"limits": [[0, 120]]})
    cut = job.passes.cut(0, rows)
    assert [batch.row[batch.row >= 0].tolist() for batch in cut] == [[0, 1, 2], [3, 4, 5, 6, 7]]


# ------------------------------------------------------------------------------------------------ memory that is short


class Memory:
    """A fake memory: `free` is what the test says; use grows with the tokens of the pass that runs."""

    def __init__(self, bytes_per_token: int) -> None:
        self.bytes_per_token = bytes_per_token
        self.free = 10**15
        self.used = self.held = 0

    def read(self) -> Reading:
        return Reading(self.free - self.held, self.used, self.held)

    def hold(self, tokens: int) -> None:
        self.used = tokens * self.bytes_per_token
        self.held = max(self.held, self.used)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    found = Memory(MIB)
    monkeypatch.setattr(build, "reader", lambda device, processes: found.read)
    return found


def watched(job: Job, memory: Memory, seen: Callable[[Packed], None] = lambda batch: None) -> Job:
    """The job with an objective whose passes use the fake memory."""

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(job.objective, name)

        def loss(self, policy: torch.nn.Module, batch: Packed) -> dict[str, Tensor]:
            seen(batch)
            memory.hold(batch.num_tokens)
            terms = job.objective.loss(policy, batch)
            for term in terms.values():
                term.register_hook(lambda _: setattr(memory, "used", 0))
            return terms

    return replace(job, objective=Watched())  # type: ignore[arg-type]


def test_what_would_not_fit_is_halved_before_it_runs_and_said_once(base: Path, tmp_path: Path, memory: Memory) -> None:
    seen, sizes = Seen(), []
    plain = make_job(base, tmp_path / "8", local(), settings={**AUTO, "batch_size": 8}, dtype=torch.float64)
    fit(plain)
    made = make_job(base, tmp_path / "auto", local(), settings=AUTO, dtype=torch.float64, emitter=seen.emitter)
    whole = max(tokens_of(made, step) for step in range(3))
    # By the budget: 1.6 MB for every token beyond the longest row, 64 MB, and a tenth to spare.
    memory.free = int((1.6 * whole * 0.3 + 64) * MIB / 0.9)
    fit(watched(made, memory, lambda batch: sizes.append(batch.num_tokens)))
    same(masters(made), masters(plain), 1e-12)
    starts = [each.values for each in seen.all if each.kind == "batch" and each.values["reason"] == "start"]
    assert [(each["rows"], each["tokens"]) for each in starts] == [(8, 4096)]
    assert [change[0] for change in seen.changes] == ["memory"]
    _, _, before, after = seen.changes[0]
    assert after == int(str(before)) // 2 and max(sizes) <= int(str(after))


def test_memory_that_goes_while_a_step_runs_cuts_it_anew(
    base: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "most_at_once", lambda device: 600)
    seen = Seen()
    settings = {**AUTO, "gradient_accumulation_steps": 3}
    plain = make_job(base, tmp_path / "8", local(), settings={**settings, "batch_size": 8}, dtype=torch.float64)
    fit(plain)
    made = make_job(base, tmp_path / "auto", local(), settings=settings, dtype=torch.float64, emitter=seen.emitter)
    sizes: list[int] = []

    def watch(batch: Packed) -> None:
        sizes.append(batch.num_tokens)
        if len(sizes) == 4:  # the second micro-batch of the first step, after the longest row ran alone twice
            memory.used = memory.held = 0
            memory.free, memory.bytes_per_token = 200 * MIB, 1

    fit(watched(made, memory, watch), until=1)
    same(masters(made), masters(plain), 1e-12)
    assert seen.changes and {change[:2] for change in seen.changes} == {("memory", 1)}
    assert len(sizes) > 4 + 3 and max(sizes[4:]) <= int(str(seen.changes[-1][3]))


def test_with_ample_room_again_it_grows(base: Path, tmp_path: Path, memory: Memory) -> None:
    seen = Seen()
    made = make_job(base, tmp_path, local(), settings={**AUTO, "epochs": 9.0}, emitter=seen.emitter)
    memory.free = 200 * MIB
    job = watched(made, memory, lambda batch: setattr(memory, "free", 10**15 if grown else memory.free))
    grown = False
    fit(job, until=3)
    assert {change[0] for change in seen.changes} == {"memory"}
    grown = True
    fit(job, until=27)
    grown_at = [int(str(change[1])) for change in seen.changes if change[0] == "room"]
    last_halving = max(int(str(change[1])) for change in seen.changes if change[0] == "memory")
    assert grown_at[0] == last_halving + 8 and grown_at == list(range(grown_at[0], grown_at[0] + len(grown_at)))
    assert seen.changes[-1][3] == 4096


def test_a_row_that_cannot_fit_is_an_error_in_words(base: Path, tmp_path: Path, memory: Memory) -> None:
    made = make_job(base, tmp_path, local(), settings={**AUTO, "batch_size": "auto"})
    job = watched(made, memory)
    fit(job, until=1)
    longest = max(job.source.window(1), key=lambda row: len(row.token_ids))
    row = replace(longest, token_ids=longest.token_ids * 8, weights=longest.weights * 8)
    memory.free = memory.held
    with pytest.raises(TunesmithError, match=r"train\.out_of_memory") as caught:
        job.passes.cut(1, [row])
    assert caught.value.facts["tokens"] == len(row.token_ids)
    assert int(str(caught.value.facts["needed"])) > int(str(caught.value.facts["free"]))
    for language in ("en", "zh"):
        assert "max_length" in render(caught.value, language).next_step  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------- memory that is refused


def refusing(job: Job, too_many: int, *, in_backward: bool) -> Job:
    """The job with an objective that is refused memory from so many tokens on, forward or when gradients are there."""

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(job.objective, name)

        def loss(self, policy: torch.nn.Module, batch: Packed) -> dict[str, Tensor]:
            terms = job.objective.loss(policy, batch)
            if batch.num_tokens >= too_many and not in_backward:
                raise RuntimeError(REFUSED)
            if batch.num_tokens >= too_many and torch.is_grad_enabled():
                # The last gradient to be made: all others stand already.
                first = next(each for each in job.policy.parameters() if each.requires_grad)
                for term in terms.values():
                    term.register_hook(lambda _: handles.append(first.register_post_accumulate_grad_hook(refuse)))
            return terms

    handles: list[torch.utils.hooks.RemovableHandle] = []

    def refuse(_: Tensor) -> None:
        handles.pop().remove()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    return replace(job, objective=Refusing())  # type: ignore[arg-type]


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_refused_micro_batch_leaves_no_trace(base: Path, tmp_path: Path, kind: str, in_backward: bool) -> None:
    seen = Seen()
    settings = {**AUTO, "gradient_accumulation_steps": 2}
    plain = make_job(
        base, tmp_path / "8", local(), settings={**settings, "batch_size": 8}, adapt={"kind": kind}, dtype=torch.float64
    )
    fit(plain)
    made = make_job(
        base, tmp_path / "auto", local(), settings=settings, adapt={"kind": kind}, dtype=torch.float64,
        emitter=seen.emitter,
    )  # fmt: skip
    fit(refusing(made, max(tokens_of(made, step) for step in range(2)) // 3, in_backward=in_backward))
    same(masters(made), masters(plain), 1e-12)
    assert len(seen.changes) >= 2 and {change[0] for change in seen.changes} == {"refused"}


def test_a_refused_row_is_an_error_and_what_was_saved_stays(base: Path, tmp_path: Path) -> None:
    made = make_job(base, tmp_path, local(), settings={**AUTO, "save_steps": 1})
    fit(made, until=1)
    with pytest.raises(TunesmithError, match=r"train\.out_of_memory"):
        fit(refusing(made, 1, in_backward=False))
    assert (tmp_path / "checkpoint-1" / "masters.safetensors").is_file()


@pytest.mark.parametrize("in_validation", [False, True])
def test_a_fixed_batch_that_is_refused_is_an_error_in_words(base: Path, tmp_path: Path, in_validation: bool) -> None:
    job = refusing(make_job(base, tmp_path, local(), settings={"batch_size": 4}), 1, in_backward=False)
    with pytest.raises(TunesmithError, match=r"train\.out_of_memory_fixed") as caught:
        if in_validation:
            list(job.passes.each(job.source.window(0), lambda batch: job.objective.loss(job.policy, batch)))
        else:
            fit(job)
    assert caught.value.facts["rows"] == 4 and "auto" in render(caught.value, "en").next_step


def test_other_errors_are_not_taken_for_memory(base: Path, tmp_path: Path) -> None:
    for size in (8, "auto"):
        job = make_job(base, tmp_path / str(size), local(), settings={"batch_size": size})

        def broken(batch: Packed, place: int, last: bool) -> dict[str, float]:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        window = job.source.window(0)
        with pytest.raises(RuntimeError, match="shapes"):
            job.passes.run(0, window, job.passes.cut(0, window), broken, job.look_ahead)


def test_validation_goes_on_in_halves(base: Path, tmp_path: Path) -> None:
    seen = Seen()
    job = make_job(base, tmp_path, local(), settings=AUTO, emitter=seen.emitter)
    rows = job.source.window(0)
    most = tokens_of(job) // 2

    def look(batch: Packed) -> list[int]:
        if batch.num_tokens > most:
            raise MemoryError
        return batch.row[batch.row >= 0].tolist()

    found = [row for part in job.passes.each(rows, look) for row in part]
    assert found == [row.row for row in rows]
    assert seen.changes[0][0] == "validation"


def test_an_update_without_room_is_an_error_in_words(
    base: Path, tmp_path: Path, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.free = 1000
    with pytest.raises(TunesmithError, match=r"train\.out_of_memory_update"):
        fit(make_job(base, tmp_path / "before", local(), settings={"batch_size": "auto"}, adapt={"kind": "full"}))

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError(REFUSED)

    job = make_job(base, tmp_path / "during", local())
    monkeypatch.setattr(torch.optim.AdamW, "step", refused)
    with pytest.raises(TunesmithError, match=r"train\.out_of_memory_update"):
        fit(job)


# ------------------------------------------------------------------------------------------------ the same again


def test_a_replay_cuts_as_the_training_did(base: Path, tmp_path: Path) -> None:
    settings = {"batch_size": "auto", "epochs": 4.0, "save_steps": 4, "eval_steps": 100, "save_total_limit": 9}
    adapt = {"lora_dropout": 0.1}

    def start(folder: Path) -> Job:
        return make_job(base, folder, local(), settings=settings, adapt=adapt)

    fit(start(tmp_path / "fit"), until=6)
    job = start(tmp_path / "fit")
    fit(refusing(job, tokens_of(job, 7) - 1, in_backward=False), until=8)
    state = load_state(tmp_path / "fit" / "checkpoint-8")
    assert [step for step, _ in state] == [0, next(step for step, _ in state[1:])] and state[1][0] >= 6
    found = certify(tmp_path / "fit", tmp_path / "aside", start)
    assert (found.first, found.last, found.equal) == (6, 8, True)


def load_state(checkpoint: Path) -> list[list[int]]:
    from tunesmith.train.checkpoint import checkpoint_facts

    limits = checkpoint_facts(checkpoint)["passes"]["limits"]
    assert isinstance(limits, list)
    return limits


def test_a_resumed_fit_goes_on_with_the_limit(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path, local(), settings=AUTO)
    fit(refusing(job, tokens_of(job) // 2, in_backward=False), until=1)
    again = make_job(base, tmp_path, local(), settings=AUTO)
    fit(again, until=2)
    assert len(load_state(tmp_path / "checkpoint-2")) >= 1
    assert load_state(tmp_path / "checkpoint-2")[0] == load_state(tmp_path / "checkpoint-1")[0]
    assert again.passes.state() == {**job.passes.state(), "limits": load_state(tmp_path / "checkpoint-2")}


def test_a_resumed_fit_validates_in_the_pieces_of_the_unbroken_one(base: Path, tmp_path: Path) -> None:
    def pieces(job: Job) -> list[int]:
        return list(job.passes.each(job.source.window(0), lambda batch: batch.num_tokens))

    job = make_job(base, tmp_path, local(), settings=AUTO)
    most = tokens_of(job) // 2

    def look(batch: Packed) -> None:
        if batch.num_tokens > most:
            raise MemoryError

    assert len(pieces(job)) == 1
    list(job.passes.each(job.source.window(0), look))
    fit(job, until=1)
    again = make_job(base, tmp_path, local(), settings=AUTO)
    fit(again, until=2)
    assert len(pieces(again)) == len(pieces(job)) > 1


RANK_PROGRAM = """
import sys, torch
from pathlib import Path
from fits import make_job
from test_passes import refusing, tokens_of
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.distributed import DistributedRuntime
from tunesmith.train.loop import fit
runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
settings = {"optimizer": "sgd", "epochs": 1.0, "batch_size": "auto"}
job = make_job(Path(sys.argv[1]), Path(sys.argv[2]), runtime, settings=settings, dtype=torch.float64, rows=37)
if runtime.rank == 1:
    job = refusing(job, tokens_of(job) // 4, in_backward=True)
fit(job)
del job
runtime.close()
"""


def test_ranks_agree_on_the_cut_and_equal_one_process(base: Path, tmp_path: Path) -> None:
    settings = {**AUTO, "batch_size": 16}
    # 37 rows: in the last step of windows of 16 one rank has three rows and the other two.
    alone = make_job(base, tmp_path / "alone", local(), settings=settings, dtype=torch.float64, rows=37)
    fit(alone)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment["PYTHONPATH"] = python_path(Path(__file__).parent)
    command = [sys.executable, "-c", RANK_PROGRAM, str(base), str(tmp_path / "pair")]
    ranks = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
    (checkpoint,) = (tmp_path / "pair").glob("checkpoint-*")
    same(load_file(checkpoint / "masters.safetensors"), masters(alone), 1e-9)
    assert load_state(checkpoint)[0][1] < 4096


# ------------------------------------------------------------------------------------------------ a real limit

LIMITED_PROGRAM = """
import json, resource, sys
from tunesmith.core.process import prepare
prepare()
import psutil
from pathlib import Path
from long_rows import long_job
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Events
from tunesmith.train.loop import fit
base, folder, size, room, tokens = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
seen = []
job = long_job(base, folder, size if size == "auto" else int(size), tokens, Events(None, (seen.append,)))
if room:
    most = psutil.Process().memory_info().vms + room * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    fit(job)
    print(json.dumps([each.values["reason"] for each in seen if each.kind == "batch"]))
except TunesmithError as error:
    print(json.dumps(error.code))
"""


@pytest.fixture(scope="module")
def long_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("long") / "base", spread=0.1, context=4096, layers=4, hidden=128)


@pytest.fixture(scope="module")
def unlimited(long_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("unlimited")
    assert '["start"]' in limited(long_base, folder, "auto", 0)
    yield load_file(folder / "best" / "adapter_model.safetensors")


def limited(base: Path, folder: Path, size: str, room: int, tokens: int = 1000) -> str:
    """A fit in a process of its own that gets so many MB of address space besides what it has when the fit begins."""
    environment = os.environ | {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LIMITED_PROGRAM, str(base), str(folder), size, str(room), str(tokens)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


ROOM = 80


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of the address space that is kept")
def test_under_a_real_limit_auto_finishes_where_a_fixed_batch_is_refused(
    long_base: Path, unlimited: dict[str, Tensor], tmp_path: Path
) -> None:
    assert "train.out_of_memory_fixed" in limited(long_base, tmp_path / "fixed", "8", ROOM)
    told = limited(long_base, tmp_path / "auto", "auto", ROOM)
    assert "memory" in told or "refused" in told
    same(load_file(tmp_path / "auto" / "best" / "adapter_model.safetensors"), unlimited, 1e-5)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of the address space that is kept")
def test_under_a_limit_too_tight_for_one_row_it_says_so(long_base: Path, tmp_path: Path) -> None:
    assert '"train.out_of_memory"' in limited(long_base, tmp_path, "auto", 1, tokens=4000)
