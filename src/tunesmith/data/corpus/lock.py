"""One build at a time in one folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors, make_folders


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, and keep other builds out of it. A lock of a killed process is none.

    Errors: data.corpus_busy, those of `disk_errors`.
    """
    with disk_errors(folder):
        make_folders(folder)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with disk_errors(folder):
            _take(folder, descriptor)
        if not _is_still(folder, descriptor):  # its owner was just done with it, and took it away
            raise TunesmithError("data.corpus_busy", path=str(folder))
        yield
    finally:
        os.close(descriptor)


def _take(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TunesmithError("data.corpus_busy", path=str(folder)) from None


def _is_still(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
