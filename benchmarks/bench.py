"""What all benchmarks do: start a child for every measurement, one after the other, collect and judge its figures."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.exchange import Figures, Job, Rows, write_job, write_rows
from benchmarks.report import Results
from benchmarks.systems import System
from tunesmith.core.process import available_cores
from tunesmith.models.load import BaseFolder, resolve_base
from tunesmith.tasks.chat import ChatTask

ROOT = Path(__file__).parents[1]
BASE = "smollm2-135m"
MAX_LENGTH = 1024


class ChildFailed(Exception):
    """A child ended without figures; the text says how."""


class Sitting:
    """One call of a long benchmark: no piece is begun once its minutes are over, and what is begun is ended.

    The same command goes on later: figures that are there are not taken again.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self.left = 0
        """Pieces that were put off."""

    def takes(self) -> bool:
        """Whether one more piece is begun; if not, it is counted as left."""
        put_off = self._end is not None and time.monotonic() >= self._end
        self.left += put_off
        return not put_off

    def tell(self) -> None:
        """Say what is left for the next call."""
        if self.left:
            print(f"\n{self.left} pieces are left; the same command goes on from here", flush=True)


def add_minutes(parser: argparse.ArgumentParser) -> None:
    """The argument of a `Sitting`."""
    parser.add_argument("--minutes", type=float, help="begin no piece after so many; the same command does the rest")


@dataclass
class Workshop:
    """A temporary folder, the base model, the children that work there, and what they found."""

    folder: Path
    results: Results
    base: BaseFolder
    task: ChatTask
    jobs: int = 0

    @classmethod
    def open(cls, folder: Path, results: Results) -> Workshop:
        """With the base that every system gets."""
        base = resolve_base(BASE)
        return cls(folder, results, base, ChatTask.of_folder(base.path, MAX_LENGTH))

    def keep(self, name: str, rows: Rows) -> str:
        """Save rows for children; returns the file."""
        path = self.folder / f"{name}.json"
        write_rows(path, rows)
        return str(path)

    def measure(self, system: System, task: str, rows: str, *, seed: int = 42, epochs: int = 1) -> Figures | None:
        """One measurement in a fresh process; None, with a note, when it failed: the others go on."""
        self.jobs += 1
        folder = self.folder / f"job-{self.jobs}"
        folder.mkdir()
        job = Job(
            file=system.file,
            task=task,
            rows=rows,
            base=BASE,
            base_folder=str(self.base.path),
            scratch=str(folder),
            threads=available_cores(),
            hold_memory=system.hold_memory,
            seed=seed,
            epochs=epochs,
            max_length=MAX_LENGTH,
            options=system.options,
        )
        try:
            return _child(system.python, job, folder)
        except ChildFailed as error:
            self.results.note(f"{system.label} failed at {task}: {error}")
            return None


def _child(python: str, job: Job, folder: Path) -> Figures:
    job_path, figures_path = folder / "job.json", folder / "figures.json"
    write_job(job_path, job)
    command = [python, "-m", "benchmarks.child", str(job_path), str(figures_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode or not figures_path.is_file():
        raise ChildFailed(f"rc {ended.returncode}: " + "\n".join(ended.stdout.splitlines()[-15:]))
    figures: Figures = json.loads(figures_path.read_text("utf-8"))
    return figures


def with_options(system: System, **options: str) -> System:
    """The same system with more options; "__" in a name stands for a dot."""
    named = {name.replace("__", "."): value for name, value in options.items()}
    return replace(system, options={**system.options, **named})


def number(figures: Figures, metric: str) -> float:
    """A figure that is one number."""
    value = figures[metric]
    if isinstance(value, list):
        raise TypeError(metric)
    return value


def numbers(figures: Figures | None, metric: str) -> list[float]:
    """A figure that is a list; empty where the child failed."""
    value = figures[metric] if figures else []
    if not isinstance(value, list):
        raise TypeError(metric)
    return value


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Run by run; where a run of one is missing, of the medians."""
    if len(above) == len(below):
        return [one / other for one, other in zip(above, below, strict=True)]
    return [statistics.median(above) / statistics.median(below)] if above and below else []


def verdict(text: str, values: Sequence[float], wanted: float) -> None:
    """Say whether the median reaches what is wanted."""
    if not values:
        print(f"not measured  {text}")
        return
    median = statistics.median(values)
    print(f"{'reached     ' if median >= wanted else 'NOT REACHED '}  {text}: {median:.2f}", flush=True)


def verdict_within(text: str, value: float, limit: float) -> None:
    """Say whether a difference stays within its limit."""
    print(f"{'reached     ' if value <= limit else 'NOT REACHED '}  {text}: {value:.3g} of {limit:.3g}", flush=True)
