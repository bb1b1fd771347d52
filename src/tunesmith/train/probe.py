"""Measurements on this machine before a fit: which number format is faster, and what a step costs.

A choice made by measurement is written into the lock once and never measured again for that run.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from tunesmith.core.process import peak_memory_bytes
from tunesmith.models.packed import Packed
from tunesmith.objectives.base import is_told
from tunesmith.runtime.base import Runtime
from tunesmith.train.loop import Job

_SHAPE = (512, 576, 1536)
"""Rows, inputs and outputs of the timed product: a micro-batch through the widest layer of a small model."""
_SIDE = 4096
"""Side of the matrices whose product calibrates an accelerator."""


@dataclass(frozen=True)
class StepCost:
    """What a forward and backward pass takes: seconds a token, and the most memory held so far in bytes."""

    seconds_per_token: float
    peak_bytes: int


def faster_dtype(device: torch.device) -> str:
    """bfloat16 where its matrix product is faster than float32's by a tenth or more, else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device.type == "mps":
        return "float32"
    seconds = {name: _product_seconds(dtype) for name, dtype in _FORMATS.items()}
    return "bfloat16" if seconds["bfloat16"] * 1.1 < seconds["float32"] else "float32"


_FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def _product_seconds(dtype: torch.dtype) -> float:
    rows, inputs, outputs = _SHAPE
    left, right = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
    times: list[float] = []
    for _ in range(7):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def step_cost(job: Job, steps: int = 2) -> StepCost:
    """Forward and backward of the first windows, without an update: nothing that trains has moved afterwards."""
    seconds: list[float] = []

    def one_pass(batch: Packed, place: int, last: bool) -> dict[str, float]:
        terms = job.objective.loss(job.policy, batch.to(job.runtime.device))
        job.passes.forward_done()
        torch.stack([term for name, term in terms.items() if not is_told(name)]).sum().backward()
        return {}

    for step in range(steps):
        window = job.source.window(step)
        batches = job.passes.cut(step, window)
        started = time.perf_counter()
        job.look_ahead.begin(step)
        ran = job.passes.run(step, window, batches, one_pass, job.look_ahead)
        job.penalties.add()
        _wait(job.runtime.device)
        seconds.append((time.perf_counter() - started) / sum(batch.num_tokens for batch in ran.batches))
        job.optimizer.drop()
    return StepCost(min(seconds), peak_bytes(job.runtime))


def _wait(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; a CPU already has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def accelerator_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Best matrix product of an accelerator seen in a few tries, FLOP/s."""
    left = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
    times: list[float] = []
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        torch.mm(left, left)
        _wait(device)
        times.append(time.perf_counter() - started)
    return float(2 * _SIDE**3 / min(times))


def peak_bytes(runtime: Runtime) -> int:
    """Most memory held so far in bytes: of the GPU where one trains, else of this process."""
    if runtime.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(runtime.device))
    return peak_memory_bytes()
