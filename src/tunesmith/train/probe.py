"""Measurements on this machine before a fit: which number format is faster, and what a step costs.

A choice made by measurement is written into the lock once and never measured again for that run.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from tunesmith.core.process import peak_memory_bytes
from tunesmith.runtime.base import Runtime
from tunesmith.train.batching import micro_batches
from tunesmith.train.loop import Job

_SHAPE = (512, 576, 1536)
"""Rows, inputs and outputs of the timed product: a micro-batch through the widest layer of a small model."""


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
    for step in range(steps):
        batches = micro_batches(job.source.window(step), job.spec.batch_size, job.runtime.rank, job.runtime.size)
        started = time.perf_counter()
        tokens = 0
        for rows in batches:
            batch = job.pack(rows).to(job.runtime.device)
            torch.stack(list(job.objective.loss(job.policy, batch).values())).sum().backward()
            tokens += sum(len(row.token_ids) for row in rows)
        seconds.append((time.perf_counter() - started) / tokens)
        for parameter in job.policy.parameters():
            parameter.grad = None
    return StepCost(min(seconds), _peak_bytes(job.runtime))


def _peak_bytes(runtime: Runtime) -> int:
    if runtime.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(runtime.device))
    return peak_memory_bytes()
