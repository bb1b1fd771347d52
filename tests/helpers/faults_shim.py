"""The shim of faults_shim.c from Python: how it is built, and how a process in front of which it stands is armed.

Calls that a library makes past the C library are not seen: safetensors renames its finished file that way. The calls
before and after it are, so both states around that step are tried.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faults_shim.c")

TAKES_SPACE, REMOVES, OTHER = 1, 2, 4
"""Kinds of calls: making and writing; removing; renaming and rights."""
EVERYTHING = TAKES_SPACE | REMOVES | OTHER
_MODES = {"off": 0, "count": 1, "kill": 2, "fail": 3, "short": 4, "trace": 5}


@dataclass(frozen=True)
class Fault:
    """What happens at the file operation `number`, counted from 1.

    `mode` is count, kill (before the operation), fail (with `error`), short (half of a write goes through) or trace
    (every operation is written to the file `trace`). Operations after the chosen one whose kind is in `later` fail.
    """

    mode: str = "count"
    number: int = 0
    error: str = "EIO"
    later: int = 0
    trace: str = ""
    exchange: bool = True
    """Whether the file system can swap two names in one step."""


NO_FAULT = Fault()


def build_shim(folder: Path) -> Path:
    """Compile the shim, or skip the test saying what is missing."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.uname().sysname != "Linux":
        pytest.skip("needs Linux and a C compiler for the file shim: apt install gcc libc6-dev")
    library = folder / "faults_shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


class Shim:
    """The shim in this process, which was started with it preloaded."""

    def __init__(self, folder: Path) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faults_watch(os.fsencode(folder))
        self._library.faults_disarm.restype = ctypes.c_long

    def arm(self, fault: Fault) -> None:
        """Count from now on, and do what `fault` says."""
        number, trace = getattr(errno, fault.error), os.fsencode(fault.trace) or None
        self._library.faults_without_exchange(not fault.exchange)
        self._library.faults_arm(_MODES[fault.mode], ctypes.c_long(fault.number), number, fault.later, trace)

    def disarm(self) -> int:
        """Let everything through again; the number of operations that were seen."""
        return int(self._library.faults_disarm())
