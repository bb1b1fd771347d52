"""The memory of the device that trains, as torch and the system tell it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import psutil
import torch

from tunesmith.core.memory import free_memory_bytes, give_back, heap
from tunesmith.train.budget import Reading

_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""How torch, its allocators and the libraries below it say that memory was refused."""

_WORDS_OF_ONEDNN = ("could not create a primitive", "could not execute a primitive")
_SCARCE = 512 * 2**20
"""oneDNN says the same of memory and of what it does not support: below so many free bytes it is taken for memory."""

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
    books, resident = heap(), int(psutil.Process().memory_info().rss)
    return Reading(free_memory_bytes() // processes, resident if books is None else books.in_use, resident)


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
    said = str(error).lower()
    if not isinstance(error, RuntimeError):
        return False
    if any(words in said for words in _WORDS_OF_ONEDNN):
        return free_memory_bytes() < _SCARCE
    return any(words in said for words in _WORDS)


def release(*, cycles: bool) -> None:
    """Give back what is held and not used: the holes of the heap, an accelerator's blocks, cycles that hold tensors."""
    if cycles:
        gc.collect()
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
