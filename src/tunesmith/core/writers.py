"""Who writes: names of processes that tell the same wherever they are read, on every machine that shares a folder.

The number of a process means something in one container of one running system alone (a "machine" here), and is given
out again there. So a name also holds the machine and the moment at which the process began.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import uuid
from functools import lru_cache
from pathlib import Path

import psutil

from tunesmith.core.process import is_alive

WRITER = r"[0-9a-f]{12}-\d{1,10}-\d{1,20}"
"""The form of a name, as a regular expression."""

_PROCESSES = Path("/proc")
_STATE, _START = 0, 19
"""Places in /proc/<pid>/stat, counted behind the name of the program."""
_DEAD = "ZX"


def this_process() -> str:
    """The name of the process that asks: machine, number, and the moment at which it began."""
    return _name_of(os.getpid())


def is_living(writer: str) -> bool | None:
    """Whether the process of a name is still there; None where it is another machine's, and nobody here can know."""
    machine, number, start = writer.split("-")
    if machine != this_process().split("-")[0]:
        return None
    pid = int(number)
    if not is_alive(pid):
        return False
    found = _began(pid)
    return found in ("", start)  # "": it is somebody else's, who shows nothing of it


@lru_cache(maxsize=1)
def _name_of(pid: int) -> str:
    return f"{_machine()}-{pid}-{_began(pid) or 0}"


def _machine() -> str:
    """This container of this running system. One that cannot be told from others gets a name that nobody else has."""
    parts = [platform.node()]
    if sys.platform.startswith("linux"):
        try:
            if os.readlink(_PROCESSES / "self") != str(os.getpid()):  # numbers there are those of another container
                raise OSError
            parts += [
                (_PROCESSES / "sys/kernel/random/boot_id").read_text("ascii"),
                os.readlink(_PROCESSES / "self/ns/pid"),
            ]
        except OSError:
            parts = [uuid.uuid4().hex]
    else:
        parts.append(f"{uuid.getnode():x}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _began(pid: int) -> str:
    """When a process began, in this system's own count; "" where that is not shown, "gone" where it only waits to be
    buried.
    """
    try:
        if _PROCESSES.is_dir():
            told = (_PROCESSES / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            return "gone" if told[_STATE] in _DEAD else told[_START]
        return str(int(psutil.Process(pid).create_time() * 1000))
    except (OSError, psutil.Error):
        return ""


def writer_of(name: str, prefix: str) -> tuple[str, str]:
    """The process that made a name of the form `<prefix><process>-<rest>`, and that rest; "", "" for other names."""
    found = re.fullmatch(rf"{re.escape(prefix)}({WRITER})-(.+)", name, re.DOTALL)
    return (found[1], found[2]) if found else ("", "")
