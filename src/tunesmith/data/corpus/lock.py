"""One build at a time in one folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors, make_folders

_LOOKS, _BETWEEN_LOOKS = 20, 0.05
"""Seconds between looks: a killed process holds its files until the last of its threads is gone."""


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
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(_BETWEEN_LOOKS)
    raise TunesmithError("data.corpus_busy", path=str(folder))


def _is_still(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
