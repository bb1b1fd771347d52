"""Fits with a fault planted at stated steps, and what of a fit is compared: bytes of weights, losses, saved folders."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tunesmith.core.events import Event, Events
from tunesmith.models.packed import Packed
from tunesmith.objectives.base import Objective
from tunesmith.train.loop import Job


class Watch:
    """Listens to a fit: its events, the step under way, and after each step the bytes of all that training moves."""

    def __init__(self, *more: Callable[[Event], None]) -> None:
        self.events: list[Event] = []
        self.step = 1
        self.digests: list[str] = []
        self.job: Job | None = None
        self.emitter = Events(None, (self._hear, *more))

    def watch(self, job: Job) -> Job:
        """Look at this job from now on."""
        self.job = job
        self.digests = [digest(job)]
        return job

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if event.kind == "step" and self.job is not None:
            self.digests.append(digest(self.job))
            self.step = int(str(event.values["step"])) + 1

    def of(self, kind: str, name: str) -> list[object]:
        """A value of every event of a kind."""
        return [event.values.get(name) for event in self.events if event.kind == kind]

    def alarms(self, code: str) -> list[object]:
        """Steps of the alarms of a code."""
        return [each.values.get("step") for each in self.events if each.kind == "alarm" and each.values["code"] == code]


def digest(job: Job) -> str:
    """SHA-256 over the bytes of weights, masters and optimizer."""
    found = hashlib.sha256()
    weights = {f"weight/{name}": each for name, each in job.policy.named_parameters()}
    masters = {f"master/{name}": each for name, each in job.optimizer.masters.items()}
    for name, each in sorted({**weights, **masters, **job.optimizer.state()}.items()):
        found.update(name.encode())
        found.update(bytes_of(each))
    return found.hexdigest()


def bytes_of(tensor: Tensor) -> bytes:
    """The bytes of a tensor, whatever its number format."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


Plant = Callable[[Job, Callable[[], bool]], Job]
"""Makes a job whose numbers go bad whenever the question is answered with yes."""


class _BadLoss:
    """An objective whose loss becomes a stated value, for one micro-batch of a step."""

    def __init__(self, objective: Objective, now: Callable[[], bool], value: float) -> None:
        self._objective, self._now, self._value = objective, now, value
        self.count, self.state, self.restore = objective.count, objective.state, objective.restore

    def loss(self, policy: nn.Module, batch: Packed) -> dict[str, Tensor]:
        terms = self._objective.loss(policy, batch)
        if policy.training and self._now():
            return {name: each * self._value for name, each in terms.items()}
        return terms


def bad_loss(value: float) -> Plant:
    """The loss is multiplied by a value, and so is its gradient."""
    return lambda job, now: replace(job, objective=_BadLoss(job.objective, now, value))


def bad_gradient(value: float, *, everywhere: bool) -> Plant:
    """One element of one gradient (or every element) is a value, while the loss is good."""

    def plant(job: Job, now: Callable[[], bool]) -> Job:
        def spoil(gradient: Tensor) -> Tensor:
            if not now():
                return gradient
            spoilt = gradient.clone(memory_format=torch.contiguous_format)
            (spoilt if everywhere else spoilt.view(-1)[:1]).fill_(value)
            return spoilt

        last = [each for each in job.policy.parameters() if each.requires_grad][-1]
        last.register_hook(spoil)
        return job

    return plant


PLANTS: dict[str, Plant] = {
    "NaN in one batch's loss": bad_loss(math.nan),
    "infinite loss": bad_loss(math.inf),
    "Inf in one element of a gradient": bad_gradient(math.inf, everywhere=False),
    "NaN in one element of a gradient": bad_gradient(math.nan, everywhere=False),
    "a gradient too long to measure": bad_gradient(3e38, everywhere=True),
}


def masters(job: Job) -> dict[str, Tensor]:
    """What the optimizer moves, copied."""
    return {name: each.detach().clone() for name, each in job.optimizer.masters.items()}


def all_finite(folder: Path) -> bool:
    """Whether every tensor of a saved folder is made of numbers."""
    return all(
        bool(torch.isfinite(each).all()) for path in folder.glob("*.safetensors") for each in load_file(path).values()
    )


def far_apart(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The largest relative distance of two equally named tensors, in the norm of a tensor."""
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).norm() / right[name].norm().clamp_min(1e-12)) for name in right)
