"""Opening a run for a command: what can be refused is refused before torch loads, then the process is prepared."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.manner import tell
from tunesmith.cli.terminal import Terminal
from tunesmith.compat.check import check_trained
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import ASIDE, MANIFEST, remove_folder
from tunesmith.core.process import prepare
from tunesmith.core.run import LOCK, METRICS, Run, list_runs
from tunesmith.messages import say
from tunesmith.recipe.identity import anchored, identity, source_hashes
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.recipe import Recipe

if TYPE_CHECKING:
    from tunesmith.work import Work


def ready(threads: int | None = None) -> None:
    """Settle threads, allocator and telemetry; call it before anything heavy is imported."""
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of other people's libraries; our own are events
    prepare()


def find_run(path: Path) -> Path:
    """The run directory that a path names: itself, or the newest run of a folder of runs.

    Errors: core.not_a_run.
    """
    if (path / MANIFEST).is_file() and (path / LOCK).is_file():
        return path
    inside = [each.parent for pattern in ("*", "*/*", "*/*/*") for each in path.glob(f"{pattern}/{LOCK}")]
    whole = [each for each in inside if (each / MANIFEST).is_file() and not each.name.startswith(ASIDE)]
    if not whole:
        raise TunesmithError("core.not_a_run", path=str(path))
    return max(whole, key=lambda each: each.name)


@contextmanager
def started(
    recipe: Path, overrides: Sequence[str], runs: Path, listener: Terminal, new: bool = False
) -> Iterator[Work]:
    """The run of a recipe, new or found again, held by this process. Errors: those of `lifecycle.start`."""
    read = load_recipe(recipe, overrides)
    if not new:
        _refuse_if_in_use(read, recipe.resolve().parent, runs)
    ready(read.runtime.threads)
    tell(say("cli.loading"), "dim")
    from tunesmith import lifecycle

    work = lifecycle.start(recipe, overrides, runs, (listener,), new=new)
    with _held(work, listener) as held:
        try:
            yield held
        except BaseException:
            # Only while it is held: before, the run may be another process's that has just begun.
            if work.leads:
                _forget_if_empty(work.run, runs)
            raise


@contextmanager
def opened(path: Path, listener: Terminal) -> Iterator[Work]:
    """The run that a path names, held by this process.

    Errors: core.not_a_run, those of `check_trained` and `lifecycle.reopen`.
    """
    run = Run.open(find_run(path))
    read = load_recipe(run.path / LOCK)
    check_trained(read)
    if _alone(read):
        run.refuse_if_owned()
    ready(read.runtime.threads)
    tell(say("cli.loading"), "dim")
    from tunesmith import lifecycle

    with _held(lifecycle.reopen(run.path, (listener,)), listener) as work:
        yield work


@contextmanager
def opened_or_started(path: Path, runs: Path, listener: Terminal) -> Iterator[Work]:
    """A run by its directory, or by its recipe."""
    with started(path, [], runs, listener) if path.is_file() else opened(path, listener) as work:
        yield work


def _alone(recipe: Recipe) -> bool:
    """Whether no other process may work on the run: ranks of one launch share it."""
    return recipe.runtime.kind == "local"


def _refuse_if_in_use(recipe: Recipe, folder: Path, runs: Path) -> None:
    """Say at once that another process works on this very run. Errors: core.run_in_use."""
    if not _alone(recipe) or not any(run.is_owned() for run in list_runs(runs, recipe.name)):
        return
    for run in list_runs(runs, recipe.name, identity(anchored(recipe, folder), source_hashes(recipe, folder))):
        run.refuse_if_owned()


def _forget_if_empty(run: Run, runs: Path) -> None:
    """Remove a run in which no stage was finished: it holds nothing but a copy of the recipe."""
    if run.manifest().get("stages"):
        return
    remove_folder(run.path)
    with suppress(OSError):  # folders that hold other runs stay
        run.path.parent.rmdir()
        runs.rmdir()


@contextmanager
def _held(work: Work, listener: Terminal) -> Iterator[Work]:
    """Hold the run, and let TensorBoard listen beside the terminal."""
    from tunesmith.core.events import Events
    from tunesmith.train.tensorboard import TensorBoard

    if not work.leads:  # another rank of a distributed launch writes and shows
        yield work
        return
    with work.run.owned(), TensorBoard(work.path / "tensorboard") as board:
        yield replace(work, events=Events(work.path / METRICS, (listener, board)))
