"""Two names change places in one step, so that a folder is replaced without a moment in which nothing stands there."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

_CURRENT_FOLDER = -100  # AT_FDCWD of fcntl.h
_SWAP = 2  # RENAME_EXCHANGE of linux/fs.h, RENAME_SWAP of macOS's stdio.h
_NO_SUCH_STEP = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def exchange(first: Path, second: Path) -> bool:
    """Swap what two names stand for; False where the system or the file system knows no such step.

    Both must exist, on one file system. Errors: OSError.
    """
    names = os.fsencode(first), os.fsencode(second)
    library = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            failed = library.renamex_np(*names, ctypes.c_uint(_SWAP))
        else:
            failed = library.renameat2(_CURRENT_FOLDER, names[0], _CURRENT_FOLDER, names[1], ctypes.c_uint(_SWAP))
    except AttributeError:  # a C library without this call
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _NO_SUCH_STEP:
        return False
    raise OSError(number, os.strerror(number), str(second))
