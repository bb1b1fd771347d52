"""Files of object stores by their address, through fsspec: s3://bucket/folder, and others for which it has a library.

Keys and passwords come from where those libraries look for them, never out of a recipe.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path, PurePosixPath

import fsspec

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import require_space
from tunesmith.data.formats.kinds import kind_of_file

KNOWN = {"s3": "s3", "gs": "", "az": "", "abfs": "", "oss": "", "hdfs": "", "webhdfs": "", "memory": ""}
"""Schemes that are read, and our extra that brings the library."""
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_SECRET = re.compile(r"\w+://[^/]*@")
_SCHEME = re.compile(r"(?P<scheme>[a-z0-9+.-]+)://[^:]*", re.IGNORECASE)


def fetch_from_store(address: str, into: Path) -> dict[str, object]:
    """Fetch one file, or all files of rows and texts below a folder; returns how many.

    Errors: data.unknown_store, data.secret_in_address, data.extra_missing, data.fetch_failed, core.too_little_space.
    """
    found = _SCHEME.fullmatch(address)
    scheme = found["scheme"].lower() if found else address.partition("://")[0]
    if _SECRET.match(address):
        raise TunesmithError("data.secret_in_address")
    if found is None or scheme not in KNOWN:  # `::` would chain further schemes behind it
        known = ", ".join(f"{name}://" for name in ("hf", "modelscope", "file", *KNOWN))
        raise TunesmithError("data.unknown_store", source=address, scheme=scheme, known=known)
    try:
        system, root = fsspec.core.url_to_fs(address)
        listed = {root: system.info(root)} if system.isfile(root) else system.find(root, detail=True)
        taken = {_below(name, root): (name, info) for name, info in listed.items() if kind_of_file(Path(name))}
        require_space(into, sum(int(info.get("size") or 0) for _, info in taken.values()))
        for place, (name, _) in sorted(taken.items()):
            target = into / place
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(name, str(target))
    except TunesmithError:
        raise
    except OSError as error:
        if error.errno in DISK_ERRORS:  # which say what this disk lacks, and not the store
            raise
        raise _failed(address, error) from error
    except ImportError as error:
        module = error.name or scheme
        raise TunesmithError("data.extra_missing", what=f"{scheme}://", module=module, extra=KNOWN[scheme]) from error
    except Exception as error:  # every store has error classes of its own
        raise _failed(address, error) from error
    if not taken:
        raise _failed(address, ValueError("no file of rows there"))
    return {"rows": len(taken)}


def _failed(address: str, error: Exception) -> TunesmithError:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
    return TunesmithError("data.fetch_failed", source=address, reason=reason)


def _below(name: str, root: str) -> str:
    """A file's place below the address. Raises ValueError for one that would lie elsewhere on this machine."""
    base = root.rstrip("/")
    place = PurePosixPath(name).name if name == root else name.removeprefix(base).lstrip("/")
    if not place or "\\" in place or "\x00" in place or ".." in PurePosixPath(place).parts:
        raise ValueError(f"a name that leaves the folder: {place[:80]!a}")
    return place
