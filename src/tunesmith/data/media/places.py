"""Files below a folder, and no others: nothing that a name, an annotation or a link could lead out to is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tunesmith.data.defects import RowDefect


def files_below(root: Path, suffixes: frozenset[str]) -> Iterator[str]:
    """Names of the files below a folder, and of links to folders, in their order. What is hidden is passed over."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]  # which are not walked into
        media = [name for name in files if not name.startswith(".") and Path(name).suffix.lower() in suffixes]
        found += [(below / name).as_posix() for name in (*linked, *media)]
    yield from sorted(found)


def inside(root: Path, name: str) -> Path:
    """The file of a name below a folder. Raises RowDefect: media_outside, media_link, media_missing."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\x00" in name or ":" in pure.parts[0]:
        raise RowDefect("media_outside")
    path = root
    for part in pure.parts:
        path /= part
        if path.is_symlink():
            raise RowDefect("media_link")
    if not path.is_file():  # a pipe or a device would never end
        raise RowDefect("media_missing")
    return path
