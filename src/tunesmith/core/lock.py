"""Locks on files: one process at a time, and the lock of a killed one is none.

They are the operating system's (`flock`), and hold for all machines that share a folder where its file system carries
them to the others. NFS does so for files that are open for writing, never for folders, and not at all where it was
mounted with `nolock` or `local_lock`; `locks_stay_here` tells.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

_BETWEEN_LOOKS = 0.05
_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")
"""A blank in the name of a place where something is mounted, and the like."""
_LOCAL = frozenset({"nolock", "local_lock=all", "local_lock=flock"})


def lock_file(path: Path, patience: float) -> int | None:
    """Lock a file, made where there is none, and say by which descriptor; closing that one lets it go.

    None where another process has had it for `patience` seconds: a killed one keeps its files until the last of its
    threads is gone. Whoever holds it may take the file away before letting go. Errors: OSError.
    """
    until = time.monotonic() + patience
    while True:
        descriptor = _opened(path)
        try:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _lies_there(path, descriptor):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > until:
            return None
        time.sleep(_BETWEEN_LOOKS)


def _opened(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with suppress(OSError):  # another user's, who has done so
        os.fchmod(descriptor, 0o666)  # nothing stands in it, and others of the folder may have to wait for it
    return descriptor


def _lies_there(path: Path, descriptor: int) -> bool:
    """Whether what was locked is what has the name now: who held it before may have taken it away."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def locks_stay_here(folder: Path) -> bool:
    """Whether locks below a folder are known to hold on this machine alone, though others may see the folder."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        lines = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return False
    place, kind, options = folder.resolve(), "", frozenset[str]()
    longest = -1
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(_ESCAPED.sub(lambda found: chr(int(found[1], 8)), before.split(" ")[4]))
        if place.is_relative_to(point) and len(point.parts) >= longest:  # the last one lies on top
            longest, (kind, _, given) = len(point.parts), after.split(" ", 2)
            options = frozenset(given.split(","))
    return kind.startswith("nfs") and bool(options & _LOCAL)
