"""Where the parts of a corpus are worked on: in threads of this process, in processes (in_processes.py), or on the
machines of a cluster (on_ray.py).

All run the same functions on the same parts, and what they pass on lies in files; so a build that was begun by one of
them can be ended by another, with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from tunesmith.core.process import available_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function on many items at a time."""

    def share(self, folder: Path) -> None:
        """Hold every worker to this folder: all that is passed on lies there. Called before the first `map`."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Every item through a function, in their order; the first error stops what has not begun."""


@dataclass(frozen=True)
class InThreads:
    """Threads of this process, which leave it to polars and numpy for their work. 0 workers are one a core."""

    workers: int = 0

    def share(self, folder: Path) -> None:
        """Threads see what their process sees."""

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Every item through a function, in their order; the first error stops what has not begun."""
        with ThreadPoolExecutor(self.workers or available_cores()) as pool:
            return first_error_stops([pool.submit(work, item) for item in items])


def first_error_stops(running: Sequence[Future[Result]]) -> list[Result]:
    """All results in their order. After an error, Ctrl-C included, nothing is begun any more and nothing runs still."""
    try:
        return [each.result() for each in running]
    except BrokenExecutor:  # its own thread ends them all, and would stumble over one that is cancelled (Python 3.11)
        raise
    except BaseException:
        for each in running:
            each.cancel()
        wait(running)
        raise
