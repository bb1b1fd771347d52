"""A power cut, simulated: from the trace of a save, the folder as the disk may hold it after each operation.

A disk that was asked for nothing keeps nothing: only what was synced is sure. What a file system keeps beyond that
differs, so three of them are tried:

    data lost        file contents since the last sync of the file are gone (it is cut to what was synced, or empty),
                     while every name that was made, moved or removed survives
    names lost too   also what happened to the names in a folder since the last sync of that folder never happened
    some of each     every folder and every file independently kept its newest state or that of its last sync
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Model = Literal["data lost", "names lost too", "some of each"]
MODELS: tuple[Model, ...] = ("data lost", "names lost too", "some of each")


@dataclass(frozen=True)
class Operation:
    """One call as the shim wrote it down. `other` is the name that was moved away from, or swapped with."""

    call: str
    inode: int
    offset: int
    path: Path
    other: Path
    data: bytes


def read_trace(path: Path) -> Iterator[Operation]:
    """The operations of a trace file, in their order."""
    rest = path.read_bytes()
    while rest:
        call, inode, offset, length, name, other, rest = rest.split(b"\0", 6)
        size = int(length)
        yield Operation(call.decode(), int(inode), int(offset), Path(name.decode()), Path(other.decode()), rest[:size])
        rest = rest[size:]


@dataclass
class File:
    """A file's bytes now and as they were last synced."""

    inode: int
    now: bytes = b""
    synced: bytes = b""


@dataclass
class Folder:
    """A folder's names now and as they were last synced."""

    inode: int
    now: dict[str, File | Folder] = field(default_factory=dict)
    synced: dict[str, File | Folder] = field(default_factory=dict)


class Disk:
    """A folder in memory, to which the operations of a trace are done one by one."""

    def __init__(self, root: Path) -> None:
        """What lies in `root` is taken as safely on the disk."""
        self._root = root
        self._top = _read_folder(root)

    def do(self, operation: Operation) -> None:
        """One more operation has happened."""
        call, name = operation.call, operation.path.name
        if operation.path.name.endswith(" (deleted)"):
            return
        if operation.path == self._root:
            self._change(operation)
            return
        parent = self._folder(operation.path.parent)
        if call in ("rename", "exchange"):
            away = self._folder(operation.other.parent)
            moved = away.now.pop(operation.other.name)
            if call == "exchange":
                away.now[operation.other.name] = parent.now[name]
            parent.now[name] = moved
        elif call == "remove":
            del parent.now[name]
        elif call == "folder":
            parent.now[name] = Folder(operation.inode)
        elif call == "create":
            parent.now[name] = File(operation.inode)
        else:
            self._change(operation)

    def _change(self, operation: Operation) -> None:
        """What is done to a file or folder, not to its name."""
        entry = self._find(operation)
        if operation.call == "sync" and isinstance(entry, Folder):
            entry.synced = dict(entry.now)
            return
        if operation.call == "rights":
            return
        if not isinstance(entry, File):
            raise ValueError(f"{operation.call} of {operation.path}")
        if operation.call == "sync":
            entry.synced = entry.now
        elif operation.call == "write":
            before = entry.now.ljust(operation.offset, b"\0")
            entry.now = before[: operation.offset] + operation.data + before[operation.offset + len(operation.data) :]
        elif operation.call in ("truncate", "resize"):
            entry.now = entry.now[: operation.offset].ljust(operation.offset, b"\0")
        else:
            raise ValueError(f"{operation.call} is not simulated")

    def _folder(self, path: Path) -> Folder:
        folder = self._top
        for part in path.relative_to(self._root).parts:
            inner = folder.now[part]
            if not isinstance(inner, Folder):
                raise NotADirectoryError(path)
            folder = inner
        return folder

    def _find(self, operation: Operation) -> File | Folder:
        """The entry at a path. One that was renamed past the C library is known by its inode, and moved along."""
        if operation.path == self._root:
            return self._top
        folder, name = self._folder(operation.path.parent), operation.path.name
        found = folder.now.get(name)
        if found is None or found.inode != operation.inode:
            old = next(each for each, entry in folder.now.items() if entry.inode == operation.inode)
            found = folder.now[name] = folder.now.pop(old)
        return found

    def matches(self, folder: Path) -> bool:
        """Whether the names and contents are those of a real folder: the trace left nothing out."""
        return _contents(self._top) == _contents(_read_folder(folder))

    def after_the_cut(self, folder: Path, model: Model, chance: random.Random) -> None:
        """Write the folder as it is found when the power is back. Nothing may stand there yet."""
        _write(self._top, folder, model, chance)


def _read_folder(path: Path) -> Folder:
    entries: dict[str, File | Folder] = {}
    for each in path.iterdir():
        if each.is_dir():
            entries[each.name] = _read_folder(each)
        else:
            content = each.read_bytes()
            entries[each.name] = File(each.stat().st_ino, content, content)
    return Folder(path.stat().st_ino, entries, dict(entries))


def _contents(entry: File | Folder) -> object:
    return entry.now if isinstance(entry, File) else {name: _contents(each) for name, each in entry.now.items()}


def _write(entry: File | Folder, path: Path, model: Model, chance: random.Random) -> None:
    newest = chance.random() < 0.5 if model == "some of each" else False
    if isinstance(entry, File):
        path.write_bytes(entry.now if newest else entry.synced)
        return
    path.mkdir()
    names = entry.now if newest or model == "data lost" else entry.synced
    for name, each in names.items():
        _write(each, path / name, model, chance)
