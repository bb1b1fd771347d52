"""One build at a time in one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import disk_errors, make_folders
from tunesmith.core.lock import lock_file

LOCK_FILE = "lock"
_PATIENCE = 1.0


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, and keep other builds out of it. A lock of a killed process is none.

    Errors: data.corpus_busy, those of `disk_errors`.
    """
    with disk_errors(folder):
        make_folders(folder)
        try:
            descriptor = lock_file(folder / LOCK_FILE, _PATIENCE)
        except FileNotFoundError:  # its owner was just done with it, and took it away
            descriptor = None
    if descriptor is None:
        raise TunesmithError("data.corpus_busy", path=str(folder))
    try:
        yield
    finally:
        os.close(descriptor)
