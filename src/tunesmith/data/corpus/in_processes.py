"""The parts of a corpus in processes of this machine, one a core.

Threads of one process wait for each other (Python's lock, the table of their memory, polars' one pool): of the same
parts two threads did 49 MB/s and two processes 61.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import TypeVar

from tunesmith.core.errors import TunesmithError
from tunesmith.core.process import available_cores
from tunesmith.data.corpus.executors import Executor, InThreads, first_error_stops

Item = TypeVar("Item")
Result = TypeVar("Result")


_KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:20000,muzzy_decay_ms:20000",
}
"""For the allocators of C (numpy) and of polars: every piece takes and frees the same tens of megabytes, and pages that
went back to the system come again as zeros. Less than a quarter of the page faults, a fifteenth of the time.
"""


_GARBAGE_AFTER = 100_000
"""Objects between two looks for rings among them: a part makes many that live as long as it, and hardly any ring.
Looking took a twenty-eighth of the time.
"""


@contextmanager
def in_processes(workers: int = 0) -> Iterator[Executor]:
    """Processes that end with the block; 0 workers are one a core, and a single one works in this process."""
    count = workers or available_cores()
    if count == 1:
        yield InThreads(1)
        return
    # A copy of this process would hold the locks of threads that it has not.
    threads = max(1, available_cores() // count)
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_settle, initargs=(threads,))
    with _environment(_KEEP_FREED_MEMORY), pool:  # processes are started as they are needed
        yield InProcesses(pool)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """What new processes find in their environment, unless the user set it."""
    ours = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]


@dataclass(frozen=True)
class InProcesses:
    """Processes of a pool. Errors of `map`: those of the function, and corpus.process_died."""

    pool: ProcessPoolExecutor

    def share(self, folder: Path) -> None:
        """Processes of one machine see the same folders."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Every item through a function, in their order; the first error stops what has not begun."""
        waiting = list(items)
        if len(waiting) < 2:  # a process takes a second to start
            return [work(item) for item in waiting]
        try:
            return first_error_stops([self.pool.submit(work, item) for item in waiting])
        except BrokenProcessPool as error:
            raise TunesmithError("corpus.process_died") from error


def _settle(threads: int) -> None:
    """A worker leaves Ctrl-C to who started it, ends with that one, and takes no more than its share of the cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    gc.set_threshold(_GARBAGE_AFTER)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, and nobody else would: they wait for work on a pipe of their own."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
