"""What the children of the kill runner do: a fit of a tiny model, or a whole command of the program."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

# Everything a child will need is imported by the parent; what the libraries themselves would import late is named.
import peft.tuners.lora  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from fits import make_job
from torch import Tensor, nn

from tunesmith import lifecycle  # noqa: F401
from tunesmith.cli.main import app
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Value
from tunesmith.models.packed import Features, Packed
from tunesmith.objectives.base import Objective
from tunesmith.recipe.specs.runtime import RuntimeSpec
from tunesmith.runtime.local import LocalRuntime
from tunesmith.train.batching import Source
from tunesmith.train.checkpoint import Checkpoints, Snapshot
from tunesmith.train.loop import Job, fit


def tell(at: str, **facts: object) -> None:
    """One line to the parent, whole."""
    os.write(1, (json.dumps({"at": at, "time": time.monotonic(), **facts}) + "\n").encode())


def fit_of(base: Path, folder: Path, stop: Mapping[str, object] | None = None, **spec: object) -> dict[str, object]:
    """A fit as a work for the runner; `stop` is a place (see `Places`), `spec` what `make_job` takes."""
    return {"kind": "fit", "base": str(base), "folder": str(folder), "stop": dict(stop or {}), "spec": spec}


def command_of(*arguments: object) -> dict[str, object]:
    """A command of the program as a work for the runner."""
    return {"kind": "command", "arguments": [str(each) for each in arguments]}


class Places:
    """Where a fit is; it strikes itself with a signal when it reaches the place it was told.

    A place is `at` (window, micro-batch, validation, save, saved, best), a `step` and a `number` in the step.
    """

    def __init__(self, at: str = "", step: int = -1, number: int = 1, signal: int = 0) -> None:
        self._wanted = (at, step, number)
        self._signal = signal
        self._step = 0
        self._numbers: dict[tuple[str, int], int] = {}

    def reach(self, at: str, step: int | None = None) -> None:
        """Count a place; steps are those that are done or under way, from 1."""
        self._step = self._step if step is None else step
        number = self._numbers[at, self._step] = self._numbers.get((at, self._step), 0) + 1
        if (at, self._step, number) == self._wanted:
            tell("stop", place=at, step=self._step, number=number)
            os.kill(os.getpid(), self._signal)


class _Windows:
    """A source that tells the rows of every step."""

    def __init__(self, source: Source, places: Places) -> None:
        self._source = source
        self._places = places
        self.windows_per_epoch = source.windows_per_epoch

    def window(self, step: int) -> list[Features]:
        rows = self._source.window(step)
        tell("window", step=step + 1, rows=[row.row for row in rows])
        self._places.reach("window", step + 1)
        return rows


class _Objective:
    """An objective that knows micro-batches from validation."""

    def __init__(self, objective: Objective, places: Places) -> None:
        self._objective = objective
        self._places = places
        self.count = objective.count
        self.state = objective.state
        self.restore = objective.restore

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        self._places.reach("micro-batch" if torch.is_grad_enabled() else "validation")
        return dict(self._objective.loss(policy, batch))


class _Saves:
    """Checkpoints that tell when a save begins and ends."""

    def __init__(self, checkpoints: Checkpoints, places: Places) -> None:
        self._checkpoints = checkpoints
        self._places = places

    def __getattr__(self, name: str) -> object:
        return getattr(self._checkpoints, name)

    def save(self, snapshot: Snapshot) -> Path:
        tell("save", step=snapshot.step)
        self._places.reach("save")
        path = self._checkpoints.save(snapshot)
        tell("saved", step=snapshot.step)
        self._places.reach("saved")
        return path

    def save_best(self, masters: Mapping[str, Tensor], step: int, value: float | None) -> Path:
        tell("save", step=step, best=True)
        path = self._checkpoints.save_best(masters, step, value)
        tell("saved", step=step, best=True)
        self._places.reach("best")
        return path


class _Teller:
    """The emitter of a fit: figures of steps, validations, resumes and alarms."""

    def emit(self, kind: str, **values: Value) -> None:
        if kind in ("step", "validation", "resume", "alarm"):
            tell(kind, **values)


def _fit(base: str, folder: str, stop: Mapping[str, object], spec: Mapping[str, object]) -> int:
    """Exit codes: 0 done, 2 an error with a code."""
    places = Places(**stop)  # type: ignore[arg-type]
    runtime = LocalRuntime(RuntimeSpec(device="cpu", threads=1))
    job = make_job(Path(base), Path(folder), runtime, emitter=_Teller(), **spec)  # type: ignore[arg-type]
    tell("begin")
    try:
        result = fit(_watched(job, places))
    except TunesmithError as error:
        tell("error", code=error.code, facts=error.facts)
        return 2
    tell("end", **result.facts())
    return 0


def _watched(job: Job, places: Places) -> Job:
    objective = _Objective(job.objective, places)
    vars(job.validate)["_objective"] = objective
    return replace(
        job,
        source=_Windows(job.source, places),  # type: ignore[arg-type]
        objective=objective,  # type: ignore[arg-type]
        checkpoints=_Saves(job.checkpoints, places),  # type: ignore[arg-type]
    )


def _command(arguments: Sequence[str]) -> int:
    try:
        app(list(arguments))
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


WORKS: Mapping[str, Callable[..., int]] = {"fit": _fit, "command": _command}
