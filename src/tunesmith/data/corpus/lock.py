"""One build at a time in one folder."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors, make_folders

LOCK_FILE = "lock"
_LOOKS, _BETWEEN_LOOKS = 20, 0.05
"""Seconds between looks: a killed process holds its files until the last of its threads is gone."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, and keep other builds out of it. A lock of a killed process is none.

    Errors: data.corpus_busy, those of `disk_errors`.
    """
    with disk_errors(folder):
        make_folders(folder)
        descriptor = _opened(folder)
    try:
        with disk_errors(folder):
            _take(folder, descriptor)
        if not _is_still(folder, descriptor):  # its owner was just done with it, and took it away
            raise TunesmithError("data.corpus_busy", path=str(folder))
        yield
    finally:
        os.close(descriptor)


def _opened(folder: Path) -> int:
    """The folder, opened to be locked; where that cannot be (NFS locks nothing that is not open for writing), a file
    in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        pass  # another one has it, which `_take` will say
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EBADF:
            raise
        return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    return descriptor


def _take(folder: Path, descriptor: int) -> None:
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_BETWEEN_LOOKS)
    raise TunesmithError("data.corpus_busy", path=str(folder))


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether what was locked is what lies there now."""
    locked, places = os.fstat(descriptor), (folder, folder / LOCK_FILE)
    return any(place.exists() and os.path.samestat(place.stat(), locked) for place in places)
