"""The parts of a corpus on the machines of a Ray cluster: every item is a task, and only its result comes back.

Rows travel through files in a folder that all machines share, not through Ray: so what a part has done outlives any
process, and a build goes on with it after a kill, here or in threads. (Ray Data would keep its blocks in memory that
goes with the cluster.) The function that a worker runs first holds its machine to the driver's program and to that
folder; it is sent by its content, so that a machine without tunesmith can say so.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from uuid import uuid4

from tunesmith.core.errors import Fact, TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.core.process import available_cores
from tunesmith.data.corpus.plan import versions

if TYPE_CHECKING:
    from ray import ObjectRef

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = tuple[str, object]
"""("done", a result), or the code of an error and its facts."""

LOCAL = "local"
"""The address of a cluster that is started here and ends with the build."""
_TRIES_AGAIN = 3
"""How often a part is begun anew after its worker died."""
_WAITING = 2
"""Tasks per core that are handed to Ray at a time: their items lie in its memory."""
_ANSWERS_WITHIN = 10.0
"""Seconds."""
_ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""Of a worker, which is one core of many."""


@contextmanager
def on_ray(address: str = "", workers: int = 0) -> Iterator[OnRay]:
    """A connection to the cluster at an address (else $RAY_ADDRESS, else one that is started here, of so many workers,
    by default one a core).

    Errors: corpus.needs_ray, corpus.no_cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    where = address or os.environ.get("RAY_ADDRESS") or LOCAL
    _refuse_silence(where)
    try:
        import ray
    except ImportError as error:
        raise TunesmithError("corpus.needs_ray") from error
    own = {"num_cpus": workers or available_cores(), "include_dashboard": False} if where == LOCAL else {}
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(where, log_to_driver=False, configure_logging=False, runtime_env={"env_vars": _ONE_THREAD}, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise TunesmithError("corpus.no_cluster", address=where, reason=str(error).split("\n")[0]) from error
    with suppress(TypeError, ValueError):  # no handler of Python's, or not the main thread
        signal.signal(signal.SIGTERM, before)  # Ray has put its own there
    try:
        yield OnRay()
    finally:
        ray.shutdown()


def _refuse_silence(address: str) -> None:
    """Errors: corpus.no_cluster where nobody listens at HOST:PORT, for which Ray would wait for many minutes."""
    host, _, port = address.rpartition(":")
    if "/" in address or not port.isdecimal():
        return  # another form of address, of which Ray itself says when it is wrong
    try:
        socket.create_connection((host, int(port)), _ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise TunesmithError("corpus.no_cluster", address=address, reason=str(error)) from error


@dataclass
class OnRay:
    """Tasks of the cluster that this process is connected to. Errors of `map`: those of the function, and
    corpus.node_version, node_folder, node_file, worker_died.

    `wanted` are the versions of packages that every machine must have.
    """

    wanted: Mapping[str, str] = field(default_factory=versions)
    token: Path | None = None

    def share(self, folder: Path) -> None:
        """Leave a file of a name that nobody knows yet: where a worker does not see it, it sees another folder."""
        self.token = folder / f"shared-{uuid4().hex}"
        write_atomic(self.token, b"")

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Every item through a function, in their order; after the first error no more is handed over, and what was
        ends before it is raised: nobody writes behind an error.
        """
        import ray

        task = ray.remote(num_cpus=1, max_retries=_TRIES_AGAIN)(_guarded()).options(name=_name_of(work))
        about = ray.put((dict(self.wanted), str(self.token) if self.token else ""))
        shared, left = ray.put(work), iter(items)
        waiting: deque[ObjectRef[Outcome]] = deque()
        results: list[Result] = []
        try:
            while True:
                room = int(ray.cluster_resources().get("CPU", 1)) * _WAITING - len(waiting)
                waiting += [task.remote(about, [shared, ray.put(item)]) for item in islice(left, max(room, 0))]
                if not waiting:
                    return results
                results.append(cast(Result, _result_of(ray.get(waiting[0]))))
                waiting.popleft()
        except ray.exceptions.RayTaskError:  # a fault of the function itself
            raise
        except ray.exceptions.RayError as error:
            raise TunesmithError("corpus.worker_died", reason=str(error).split("\n")[0]) from error
        finally:
            # Not cancelled: Ray 2.60 aborts this process where a task ends while it is being cancelled.
            if waiting:
                ray.wait(list(waiting), num_returns=len(waiting))


def _name_of(work: Callable[[Item], Result]) -> str:
    """What Ray's own pages call a task."""
    function = getattr(work, "func", work)
    return str(getattr(function, "__name__", "work")).strip("_")


def _result_of(outcome: Outcome) -> object:
    code, found = outcome
    if code == "done":
        return found
    raise TunesmithError(code, **cast(dict[str, Fact], found))


def _guarded() -> Callable[[tuple[dict[str, str], str], list[ObjectRef[object]]], Outcome]:
    """What runs on the other machine. Nested, and with its own imports: so it is sent whole, without this module."""

    def guarded(about: tuple[dict[str, str], str], sent: list[ObjectRef[object]]) -> Outcome:
        import os
        from importlib.metadata import PackageNotFoundError, version
        from platform import node

        import ray

        wanted, token = about
        for name, stated in wanted.items():
            try:
                found = version(name)
            except PackageNotFoundError:
                found = "-"
            if found != stated:
                facts = {"node": node(), "package": name, "found": found, "wanted": stated}
                return "corpus.node_version", facts
        if token and not os.path.exists(token):
            return "corpus.node_folder", {"node": node(), "path": os.path.dirname(token)}
        from tunesmith.core.errors import TunesmithError

        work, item = ray.get(sent)
        try:
            return "done", work(item)
        except TunesmithError as error:
            return error.code, error.facts
        except FileNotFoundError as error:
            return "corpus.node_file", {"node": node(), "path": str(error.filename)}

    return guarded
