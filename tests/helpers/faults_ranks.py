"""Pairs of processes that share gradients over gloo, forked from one warmed Python.

The parent imports everything once and never starts a thread; each line of JSON it reads is a fit for two ranks, and its
answer says how they ended. What they found lies in the fit's folder: `rank0.json` and the checkpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_HELPERS = Path(__file__).parent


@dataclass(frozen=True)
class PairFit:
    """One fit by two ranks. `plant` names a fault of `faults_training.PLANTS`, for one rank at one step."""

    base: str
    folder: str
    dtype: str
    rows: int
    kind: str
    settings: dict[str, object] = field(default_factory=dict)
    plant: str = ""
    plant_rank: int = 0
    plant_step: int = 0
    at_once: int = 0
    """With `batch_size: auto`: tokens of a micro-batch at most; 0 leaves it to the program."""


class WarmParent:
    """A process that has imported everything and forks two ranks for each line it reads; this is the test's end."""

    def __init__(self, file: str) -> None:
        path = os.pathsep.join([str(_HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._parent = subprocess.Popen(
            [sys.executable, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.stdout.close()
        self._parent.wait(timeout=60)

    def ask(self, wanted: Mapping[str, object]) -> object:
        """The exit codes of both ranks."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        print(json.dumps(wanted), file=self._parent.stdin, flush=True)
        return json.loads(self._parent.stdout.readline())


class Pairs(WarmParent):
    """Fits by two ranks."""

    def __init__(self) -> None:
        super().__init__(__file__)

    def fit(self, wanted: PairFit) -> dict[str, object]:
        """What rank 0 tells: losses by step, which steps were applied, alarms, and the error if there was one."""
        codes = self.ask(asdict(wanted))
        assert codes == [0, 0], f"ranks ended with {codes}"
        value: dict[str, object] = json.loads(Path(wanted.folder, "rank0.json").read_text("utf-8"))
        return value


def _serve() -> None:
    """The parent's end."""
    import faults_training  # noqa: F401 - loads all that the children use
    import fits  # noqa: F401

    import tunesmith.runtime.distributed  # noqa: F401

    for line in sys.stdin:
        wanted = PairFit(**json.loads(line))
        port = free_port()
        children = [_child(wanted, rank, port) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _child(wanted: PairFit, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.dup2(2, 1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    code = 1
    try:
        _fit(wanted, rank)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _fit(wanted: PairFit, rank: int) -> None:
    import torch
    from faults_training import PLANTS, Watch
    from fits import make_job

    from tunesmith.core.errors import TunesmithError
    from tunesmith.recipe.specs.runtime import RuntimeSpec
    from tunesmith.runtime.distributed import DistributedRuntime
    from tunesmith.train import build
    from tunesmith.train.loop import fit

    if wanted.at_once:
        build.most_at_once = lambda device: wanted.at_once
    runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
    watch = Watch()
    job = make_job(
        Path(wanted.base), Path(wanted.folder), runtime, settings=wanted.settings, adapt={"kind": wanted.kind},
        dtype=getattr(torch, wanted.dtype), rows=wanted.rows, emitter=watch.emitter,
    )  # fmt: skip
    watch.watch(job)
    if wanted.plant and rank == wanted.plant_rank:
        job = PLANTS[wanted.plant](job, lambda: watch.step == wanted.plant_step)
    code = ""
    try:
        fit(job)
    except TunesmithError as error:
        code = error.code
    told = {
        "losses": watch.of("step", "loss"),
        "applied": watch.of("step", "applied"),
        "digests": watch.digests,
        "validation": watch.of("validation", "loss"),
        "error": code,
    }
    Path(wanted.folder).mkdir(exist_ok=True)
    Path(wanted.folder, f"rank{rank}.json").write_text(json.dumps(told), "utf-8")
    runtime.close()


if __name__ == "__main__":
    _serve()
