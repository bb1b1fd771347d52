"""What all benchmarks do: start a child for every measurement, one after the other, and collect its figures."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.exchange import Figures, Job, Rows, write_job, write_rows
from benchmarks.systems import System
from tunesmith.core.process import available_cores
from tunesmith.models.load import BaseFolder, resolve_base
from tunesmith.tasks.chat import ChatTask

ROOT = Path(__file__).parents[1]
BASE = "smollm2-135m"
MAX_LENGTH = 1024


class ChildFailed(Exception):
    """A child ended without figures; the text says how."""


class Workshop:
    """A temporary folder, the base model, and the children that work there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._base: BaseFolder = resolve_base(BASE)
        self.task = ChatTask.of_folder(self._base.path, MAX_LENGTH)
        self._jobs = 0

    def keep(self, name: str, rows: Rows) -> str:
        """Save rows for children; returns the file."""
        path = self._folder / f"{name}.json"
        write_rows(path, rows)
        return str(path)

    def run(self, system: System, task: str, rows: str, *, seed: int = 42, epochs: int = 1) -> Figures:
        """One measurement in a fresh process. Raises ChildFailed."""
        self._jobs += 1
        folder = self._folder / f"job-{self._jobs}"
        folder.mkdir()
        job = Job(
            file=system.file,
            task=task,
            rows=rows,
            base=BASE,
            base_folder=str(self._base.path),
            scratch=str(folder),
            threads=available_cores(),
            hold_memory=system.hold_memory,
            seed=seed,
            epochs=epochs,
            max_length=MAX_LENGTH,
            options=system.options,
        )
        return _child(system.python, job, folder)


def with_options(system: System, **options: str) -> System:
    """The same system with more options; "__" in a name stands for a dot."""
    named = {name.replace("__", "."): value for name, value in options.items()}
    return replace(system, options={**system.options, **named})


def workshop_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when the benchmark ends."""
    return tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-")


def _child(python: str, job: Job, folder: Path) -> Figures:
    job_path, figures_path = folder / "job.json", folder / "figures.json"
    write_job(job_path, job)
    command = [python, "-m", "benchmarks.child", str(job_path), str(figures_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if ended.returncode or not figures_path.is_file():
        raise ChildFailed(f"rc {ended.returncode}: " + "\n".join(ended.stdout.splitlines()[-15:]))
    figures: Figures = json.loads(figures_path.read_text("utf-8"))
    return figures
