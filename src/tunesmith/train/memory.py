"""The memory of the device that trains, as torch and the system tell it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import psutil
import torch

from tunesmith.core.memory import free_memory_bytes, heap
from tunesmith.train.budget import Reading

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""How torch, its allocators and the libraries below it say that memory was refused."""

Read = Callable[[], Reading]
"""Tells the memory as it is now."""


def reader(device: torch.device, processes: int) -> Read:
    """What reads the memory of a device; `processes` share a CPU's."""
    if device.type == "cuda":
        return lambda: _read_cuda(device)
    if device.type == "mps":
        return _read_mps
    return lambda: _read_cpu(processes)


def _read_cpu(processes: int) -> Reading:
    free = free_memory_bytes() // processes
    books = heap()
    if books is None:
        resident = int(psutil.Process().memory_info().rss)
        return Reading(free, resident, resident)
    return Reading(free, books.in_use, books.in_use + books.idle)


def _read_cuda(device: torch.device) -> Reading:
    free, _ = torch.cuda.mem_get_info(device)
    return Reading(free, torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device))


def _read_mps() -> Reading:
    held = int(torch.mps.driver_allocated_memory())
    return Reading(
        max(0, int(torch.mps.recommended_max_memory()) - held), int(torch.mps.current_allocated_memory()), held
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is the machine refusing memory, by whichever of its libraries."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def release() -> None:
    """Let go of what a failed pass has left: cycles that hold tensors, and blocks that an allocator keeps in pieces."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
