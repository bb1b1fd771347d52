"""The speed to divide by: the best matrix product that torch reaches on this device in the number format of a run.

Every product is a linear layer of a real model over a micro-batch, timed several times; the best time counts, because
whatever makes a product slower than that is not the machine's limit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch

from tunesmith.core.calibration import Calibration, Place, Product, cpu_place, find, flops_words, torch_version
from tunesmith.core.events import Emitter
from tunesmith.models.catalog import cache_folder
from tunesmith.runtime.base import Runtime

Shape = tuple[int, int, int]
"""Rows, inputs and outputs of a product."""

_SMOLLM2_135M = ((576, 1536), (1536, 576))
_QWEN2_5_0_5B = ((896, 4864), (4864, 896))
_LLAMA_8B = ((4096, 4096), (4096, 14336))

SHAPES: tuple[Shape, ...] = (
    *((rows, *layer) for layer, rows in product(_SMOLLM2_135M, (512, 1024, 2048, 4096))),
    *((rows, *layer) for layer, rows in product(_QWEN2_5_0_5B, (512, 1024, 2048, 4096))),
    (512, 4096, 4096),
    (1024, 4096, 4096),
    (512, 4096, 14336),
)
"""What is measured everywhere. Fixed, so that figures of different days and machines are of the same products."""
ACCELERATOR_SHAPES: tuple[Shape, ...] = tuple((rows, *layer) for layer, rows in product(_LLAMA_8B, (4096, 8192)))
"""What is measured besides on an accelerator, which smaller products do not fill."""
SHORT_SHAPES: tuple[Shape, ...] = ((2048, 576, 1536), (2048, 896, 4864), (1024, 4096, 4096))
"""What a run without calibration measures before it trains."""

TRIES = 10
_LEAST_TRIES = 3
_SECONDS_A_SHAPE = 0.4
"""Tries end here once there were enough of them."""
_AT_ONCE = 20
"""Products of one try on an accelerator, which starts them faster than it can be asked for the time."""


@dataclass(frozen=True)
class Peak:
    """FLOP/s of all processes of a run together. `calibrated`: from the kept calibration, else measured by the run."""

    flops_per_second: float
    dtype: str
    calibrated: bool


def place_of(device: torch.device) -> Place:
    """The device as a calibration names it."""
    if device.type == "cpu":
        return cpu_place(torch.get_num_threads())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Place(device.type, name, 0, torch_version())


def shapes_of(device: torch.device) -> tuple[Shape, ...]:
    """The whole fixed list of a device."""
    return SHAPES if device.type == "cpu" else SHAPES + ACCELERATOR_SHAPES


def accelerators() -> list[torch.device]:
    """What this process could train on besides the CPU."""
    if torch.cuda.is_available():
        return [torch.device("cuda")]
    return [torch.device("mps")] if torch.backends.mps.is_available() else []


def formats_of(device: torch.device) -> list[torch.dtype]:
    """The number formats that are measured on a device."""
    narrow = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu"
    return [torch.bfloat16, torch.float32] if narrow else [torch.float32]


def measure(device: torch.device, dtype: torch.dtype, shapes: Sequence[Shape], seconds: float) -> Calibration:
    """Time every shape: the best of at least 3 and at most `TRIES` tries.

    Args:
        seconds: after so long no further shape is begun; the first one is always measured.
    """
    began = time.perf_counter()
    products: list[Product] = []
    for shape in shapes:
        if products and time.perf_counter() - began > seconds:
            break
        rows, inputs, outputs = shape
        speed = 2.0 * rows * inputs * outputs / _best_seconds(device, dtype, shape)
        products.append(Product(rows, inputs, outputs, speed))
    return Calibration(place_of(device), str(dtype).removeprefix("torch."), tuple(products))


def _best_seconds(device: torch.device, dtype: torch.dtype, shape: Shape) -> float:
    """Seconds of one product. Random numbers: an accelerator is faster, and not honestly so, on constant ones."""
    rows, inputs, outputs = shape
    draw = torch.Generator(device).manual_seed(0)
    left = torch.empty(rows, inputs, dtype=dtype, device=device).uniform_(-1, 1, generator=draw)
    weight = torch.empty(outputs, inputs, dtype=dtype, device=device).uniform_(-1, 1, generator=draw)
    at_once = 1 if device.type == "cpu" else _AT_ONCE
    times: list[float] = []
    with torch.inference_mode():
        while len(times) < _LEAST_TRIES or (len(times) < TRIES and sum(times) < _SECONDS_A_SHAPE):
            _wait(device)
            started = time.perf_counter()
            for _ in range(at_once):
                torch.nn.functional.linear(left, weight)
            _wait(device)
            times.append(time.perf_counter() - started)
    return min(times) / at_once


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def run_peak(runtime: Runtime, dtype: torch.dtype, emitter: Emitter) -> Peak:
    """The peak that a run is held against: the kept calibration, else a short measurement now, which is said.

    Every rank calls it; the figure is the sum over the ranks, which measure at the same time.
    """
    name = str(dtype).removeprefix("torch.")
    found = find(cache_folder(), place_of(runtime.device), name)
    # All ranks do the same, or the products of one would be slowed by the training of another.
    calibrated = not runtime.agree(found.calibration is None)
    if calibrated and found.calibration is not None:
        return Peak(runtime.sum([found.calibration.peak])[0], name, True)
    if found.differences:
        emitter.emit("note", code="runtime.calibration_stale", differences="; ".join(found.differences))
    began = time.perf_counter()
    runtime.barrier()
    flops = runtime.sum([measure(runtime.device, dtype, SHORT_SHAPES, seconds=2.0).peak])[0]
    seconds = f"{time.perf_counter() - began:.1f}"
    emitter.emit("note", code="runtime.peak_measured", seconds=seconds, speed=flops_words(flops), dtype=name)
    return Peak(flops, name, False)
