"""How much memory is left: of the system, of a container, of this process's own limit, and idle in its own heap.

`core/process.py` tells glibc to keep what is freed, so most of what a training needs next stands idle in the process
already: it counts as left, though the system says it is taken.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")
_MEBIBYTE = 2**20
_TOP_PAD = 64 * _MEBIBYTE
"""What glibc asks for beyond a request (core/process.py): idle by its books, and not yet taken from the system."""


@dataclass(frozen=True)
class Heap:
    """This process's heap, in bytes: what is in use, and what was freed and is kept for the next request."""

    in_use: int
    idle: int


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def free_memory_bytes() -> int:
    """Memory that this process can still take: what the system has free, or what a container or a limit leaves."""
    return max(0, min(int(psutil.virtual_memory().available), *_room_of_groups(), *_room_of_own_limit()))


def heap() -> Heap | None:
    """The heap by glibc's own books; None where another allocator serves."""
    read = _malloc_info()
    if read is None:
        return None
    info = read()
    return Heap(info.uordblks + info.hblkhd, max(0, info.fordblks - _TOP_PAD))


@lru_cache(maxsize=1)
def _malloc_info() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        read = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return None
    read.restype = _MallocInfo
    # Another allocator in front of glibc's leaves these books empty.
    return read if read().uordblks > _MEBIBYTE else None


def give_back() -> bool:
    """Hand every whole page that is idle in the heap to the system, also from between what is in use.

    True when there was one. The heap takes them again, page by page, when it needs them.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL("libc.so.6").malloc_trim(0))
    except (OSError, AttributeError):
        return False


def _room_of_own_limit() -> Iterator[int]:
    """What `ulimit -v` leaves of the address space."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit - psutil.Process().memory_info().vms


def _room_of_groups() -> Iterator[int]:
    """What the memory limits of this process's control groups leave, of every group up to the root."""
    for folder, limit_name, used_name, idle_name in _groups_with_limits():
        try:
            limit = (folder / limit_name).read_text("ascii").strip()
            if limit == "max":
                continue
            used = int((folder / used_name).read_text("ascii"))
            yield int(limit) - used + _reclaimable(folder / "memory.stat", idle_name)
        except (OSError, ValueError):
            continue  # no limit here


def _groups_with_limits() -> Iterator[tuple[Path, str, str, str]]:
    """Folders of the groups with the names of their files: limit, use, and the file cache that can go."""
    second = ("memory.max", "memory.current", "inactive_file")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    yield _GROUPS, *second
    yield _GROUPS / "memory", *first
    try:
        lines = _OWN_GROUPS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (_GROUPS / "memory", first) if controllers else (_GROUPS, second)
        inner = Path(os.path.normpath(path.lstrip("/") or "."))
        for part in (inner, *inner.parents):
            if part.parts and part.parts[0] != "..":
                yield root / part, *names


def _reclaimable(statistics: Path, name: str) -> int:
    """File cache that the system gives up before anything dies."""
    for line in statistics.read_text("ascii").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
