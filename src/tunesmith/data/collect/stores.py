"""Files of object stores by their address, through fsspec: s3://bucket/folder, gs://bucket/folder, az://container/folder.

Stores of other providers that speak S3 are reached by the variable AWS_ENDPOINT_URL. Keys and passwords come from where
the libraries of the stores look for them, never out of a recipe.
"""

from __future__ import annotations

import errno
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import fsspec
from fsspec import AbstractFileSystem

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import require_space
from tunesmith.core.secrets import holds_secret
from tunesmith.data.collect.failures import broken, store_failure
from tunesmith.data.formats.kinds import kind_of_file

LIBRARIES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec"}
"""Schemes that are read, and the library that reads them."""
_EXTRAS = {"s3fs": "s3", "gcsfs": "gs", "adlfs": "az"}
"""Our extra that brings a library."""
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_USER = re.compile(r"\w+://[^/]*@")
_SCHEME = re.compile(r"(?P<scheme>[a-z0-9+.-]+)://[^:]*", re.IGNORECASE)


def fetch_from_store(address: str, into: Path) -> dict[str, object]:
    """Fetch one file, or all files of rows and texts below a folder; returns how many.

    Errors: data.unknown_store, data.secret_in_address, data.extra_missing, core.too_little_space, those of
    `store_failure` and `refuse_alike`.
    """
    found = _SCHEME.fullmatch(address)
    scheme = found["scheme"].lower() if found else address.partition("://")[0]
    if holds_secret(address) or _USER.match(address):
        raise TunesmithError("data.secret_in_address")
    if found is None or scheme not in LIBRARIES:  # `::` would chain further schemes behind it
        known = ", ".join(f"{name}://" for name in ("hf", "modelscope", "file", *LIBRARIES) if name != "memory")
        raise TunesmithError("data.unknown_store", source=address, scheme=scheme, known=known)
    system, root, sizes = _listed(address, scheme)
    require_space(into, sum(sizes.values()))
    targets = {name: into / _below(address, name, root) for name in sizes}
    refuse_alike([target.relative_to(into).as_posix() for target in targets.values()], address)
    for name, size in sizes.items():
        _fetch(system, address, name, targets[name], size)
    return {"rows": len(sizes)}


def _listed(address: str, scheme: str) -> tuple[AbstractFileSystem, str, dict[str, int]]:
    """The store, the address in it, and the names and sizes (bytes) of its files of rows and texts."""
    try:
        system, root = fsspec.core.url_to_fs(address)
        system.invalidate_cache()  # what an earlier fetch of this process saw
        about = system.info(root)
        listed = system.find(root, detail=True) if about["type"] == "directory" else {root: about}
    except ImportError as error:
        module = LIBRARIES[scheme]
        extra = _EXTRAS[module]
        raise TunesmithError("data.extra_missing", what=f"{scheme}://", module=module, extra=extra) from error
    except Exception as error:  # every store has error classes of its own
        raise store_failure(error, address) from None
    sizes = {name: int(info.get("size") or 0) for name, info in sorted(listed.items()) if kind_of_file(Path(name))}
    if not sizes:
        raise store_failure(FileNotFoundError("no file of rows there"), address)
    return system, root, sizes


def _fetch(system: AbstractFileSystem, address: str, name: str, target: Path, size: int) -> None:
    """One file, whole. Errors: data.download_broken and others of `store_failure`; OSError of this disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        system.get_file(name, str(target))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:  # which say what this disk lacks, not the store
            raise
        raise store_failure(error, address, target.name) from None
    if target.stat().st_size != size:
        raise broken(address, target.name, f"{target.stat().st_size:,} / {size:,} B")


def refuse_alike(names: Iterable[str], address: str) -> None:
    """Many file systems take names that differ in case, or in how a letter with its accent is written, for one: there
    the second file would silently replace the first, so no machine fetches both.

    Errors: data.names_alike.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()), name)
        if other != name:
            raise TunesmithError("data.names_alike", source=address, one=other, other=name)


def _below(address: str, name: str, root: str) -> str:
    """A file's place below the address. Errors: data.fetch_failed for one that would lie elsewhere on this machine."""
    base = root.rstrip("/")
    place = PurePosixPath(name).name if name == root else name.removeprefix(base).lstrip("/")
    if not place or "\\" in place or "\x00" in place or ".." in PurePosixPath(place).parts:
        raise store_failure(ValueError(f"a name that leaves the folder: {place[:80]!a}"), address)
    return place
