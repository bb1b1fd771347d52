"""Durable files: a file or folder appears whole or not at all.

Write aside, fsync, hash, rename, fsync the parent. Whatever is found at a final name was therefore complete when
the name appeared, and its hash says whether it still is. A process that is killed between two steps leaves names
that begin with `ASIDE` and its own name (writers.py); `remove_rubbish` takes them away, or finishes going back where a
replacement was half done. Several machines may share a folder: what another one is writing is left alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from tunesmith.core.errors import TunesmithError
from tunesmith.core.exchange import exchange
from tunesmith.core.writers import is_living, this_process, writer_of

MANIFEST = "manifest.json"
ASIDE = ".aside-"
"""Prefix of everything that is still being written; such a name is rubbish after a crash and may be removed."""

_SEAL = "manifest_sha256"
_OLDER = "older"
Content = bytes | memoryview | str

_UNTOUCHED = 7 * 24 * 3600.0
"""Seconds for which nothing in a folder of another machine has changed before it counts as rubbish: nobody writes so
slowly, not even one whose lid was shut over a weekend.
"""
_HALF_DONE, _BETWEEN_LOOKS = 5.0, 0.1
"""Seconds that another machine's replacement, two renames in a row, is given to be done."""

_CHUNK_BYTES = 1 << 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NUMBER_IN_WORDS = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")
"""How what the operating system refused is named by libraries written in Rust (safetensors, tokenizers, polars), whose
classes are no OSError, and by shutil, whose error is a list of others."""


def user_path(text: str, folder: Path) -> Path:
    """A path as somebody writes it: `~` is the home folder, and a relative one starts at `folder`."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:  # ~name, and nobody is called so here
        return folder / text


def sha256_file(path: Path) -> str:
    """Hash of the file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_path(path: Path) -> None:
    """Force a file's or a folder's entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path, needed: Callable[[], int] = lambda: 1) -> Iterator[None]:
    """Turn the operating system's refusals while writing below `path` into errors with a next step.

    `needed` says how many bytes the whole takes, as far as that is known when the disk is full.
    """
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:
        number = _number_of(error)
        if number is None and not isinstance(error, OSError):
            raise
        if number in _NO_SPACE:
            raise TunesmithError("core.disk_full", path=str(path), **_room(path, needed())) from error
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise TunesmithError("core.not_writable", path=str(path), reason=os.strerror(number)) from error
        if number == errno.ENAMETOOLONG:
            raise TunesmithError("core.name_too_long", path=str(path)) from error
        raise TunesmithError("core.disk_fault", path=str(path), reason=str(error)) from error


def _number_of(error: Exception) -> int | None:
    """The operating system's number of a refusal, from the error or from its words; None where there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    in_words = _NUMBER_IN_WORDS.search(str(error))
    return int(in_words[1] or in_words[2]) if in_words else None


def require_space(path: Path, needed: int) -> None:
    """Refuse before anything is written where the disk has no room for `needed` more bytes.

    Errors: core.too_little_space.
    """
    if needed > free_disk_bytes(path):
        raise TunesmithError("core.too_little_space", path=str(path), **_room(path, needed))


def _room(path: Path, needed: int) -> dict[str, int]:
    """What is needed and what is free, in whole MB on the safe side."""
    return {"needed_mb": -(-needed // 2**20), "free_mb": free_disk_bytes(path) // 2**20}


def free_disk_bytes(path: Path) -> int:
    """Free bytes on the disk where a path is, or would be."""
    return shutil.disk_usage(_existing_parent(path)).free


def _existing_parent(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def make_folders(folder: Path) -> None:
    """Make a folder and those above it. Each stands durably in the one above, else a power cut takes all below it."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        fsync_path(each.parent)


def write_atomic(path: Path, content: Content, *, private: bool = False, room: Path | None = None) -> str:
    """Write the whole content or leave what was there, and return its SHA-256. A private file is its owner's alone.

    Args:
        room: the folder on the same disk that it waits in; the one of `path` where none is given.

    Errors: core.disk_full, core.not_writable, core.disk_fault.
    """
    data = content.encode() if isinstance(content, str) else content
    aside = _aside((room or path.parent) / path.name, uuid.uuid4().hex[:12])
    with disk_errors(path, lambda: len(data)):
        make_folders(path.parent)
        try:
            with aside.open("wb") as stream:
                if private:
                    os.fchmod(stream.fileno(), 0o600)  # before a byte of it is there
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        fsync_path(path.parent)
    return hashlib.sha256(data).hexdigest()


def append_durably(path: Path, text: str) -> None:
    """Add lines to a file and carry them to the disk; what a crash cut short before gets a line of its own.

    Errors: core.disk_full, core.not_writable, core.disk_fault.
    """
    data = text.encode()
    with disk_errors(path, lambda: len(data)):
        if not path.exists():
            make_folders(path.parent)
        with path.open("ab+") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - 1))
            stream.write(data if stream.read(1) in (b"", b"\n") else b"\n" + data)
            stream.flush()
            os.fsync(stream.fileno())
        if not length:
            fsync_path(path.parent)


def write_json(path: Path, value: object) -> str:
    """Write a value as readable JSON, durably; returns the SHA-256."""
    return write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> dict[str, object]:
    """Read a JSON object that this program wrote. Errors: core.broken_json, core.missing_file."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise TunesmithError("core.missing_file", path=str(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise TunesmithError("core.broken_json", path=str(path), reason=str(error)) from error
    if not isinstance(value, dict):
        raise TunesmithError("core.broken_json", path=str(path), reason="not an object")
    return value


def write_manifest(folder: Path, content: Mapping[str, object]) -> None:
    """Write a folder's manifest, sealed with a hash of its own. Errors: those of `write_atomic`."""
    write_json(folder / MANIFEST, {**content, _SEAL: _seal(content)})


def read_manifest(folder: Path) -> dict[str, object]:
    """A folder's manifest without its seal.

    Errors: core.missing_file, core.broken_json, core.hash_differs where it is not as it was written.
    """
    path = folder / MANIFEST
    content = read_json(path)
    if not isinstance(content.get("files"), dict):
        raise TunesmithError("core.broken_json", path=str(path), reason="no list of files")
    if content.pop(_SEAL, None) != _seal(content):
        raise TunesmithError("core.hash_differs", path=str(path))
    return content


def _seal(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def folder_hashes(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of every file below the folder, by its relative path, the folder's own manifest left out.

    Files whose hash is `known` are not read.
    """
    known = known or {}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {name: known.get(name) or sha256_file(folder / name) for name in names if name != MANIFEST}


@contextmanager
def new_folder(
    path: Path,
    needed: int = 0,
    room: Path | None = None,
    written: Mapping[str, str] | None = None,
    /,
    **facts: object,
) -> Iterator[Path]:
    """Yield an empty folder aside; when the block ends well it becomes `path`, replacing what was there.

    A manifest with the hash of every file (and `facts`) is written into it. When the block raises, `path` is as it
    was; at no moment is it missing or half there, where the file system can swap two names in one step.

    Args:
        needed: bytes that the block will write, as far as that is known: refused beforehand where they have no room.
        room: the folder on the same disk that it waits in; the one of `path` where none is given.
        written: SHA-256 of files by their names in the folder, told by who wrote them (`write_atomic`); the block may
            fill this as it goes. The manifest takes them as they are: what a disk made of a file shows when it is read.

    Errors: those of `write_atomic`, core.too_little_space, core.missing_file.
    """
    aside = _aside((room or path.parent) / path.name, uuid.uuid4().hex[:12])
    made = -1
    try:
        with disk_errors(path, lambda: max(1, needed, folder_bytes(aside))):
            require_space(path, needed)
            make_folders(path.parent)
            aside.mkdir()
            made = os.open(aside, os.O_RDONLY)  # open, so that no other folder gets its number
            yield aside
            hashes = folder_hashes(aside, written or {})
            for name in (written or {}).keys() - hashes.keys():
                raise TunesmithError("core.missing_file", path=str(aside / name))
            write_manifest(aside, {"files": hashes, **facts})
            for entry in aside.rglob("*"):
                if entry.is_file():
                    # safetensors leaves 0600; another user (a server, say) may read what this one may share
                    entry.chmod(0o666 & ~_umask())
                fsync_path(entry)
            fsync_path(aside)
            if not os.path.samestat(os.fstat(made), aside.stat()):  # somebody took it for rubbish: half of it is gone
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(aside))
            _swap_in(aside, path)
    finally:
        if made >= 0:
            os.close(made)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, for files on their way there. It goes at the end; a killed process leaves it as
    rubbish.

    Errors: those of `disk_errors`.
    """
    aside = _aside(path, uuid.uuid4().hex[:12])
    with disk_errors(path):
        make_folders(path.parent)
        aside.mkdir()
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _umask() -> int:
    """This process's mask of rights. It can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _swap_in(aside: Path, path: Path) -> None:
    """Let `aside` take the name `path`, durably; what stood there before is removed last.

    Where two names cannot be swapped in one step, nothing stands at `path` for a moment. The older folder's name then
    says where it belongs, so that it goes back: at once when the second rename fails, by `remove_rubbish` when the
    process dies there.
    """
    older = _aside(path, f"{_OLDER}-{path.name}")
    try:
        if not path.exists():
            aside.rename(path)
        elif not exchange(aside, path):
            path.rename(older)
            aside.rename(path)
    except BaseException:
        if older.exists() and not path.exists():
            older.rename(path)
        raise
    fsync_path(path.parent)
    shutil.rmtree(older, ignore_errors=True)


def _aside(path: Path, rest: str) -> Path:
    return path.with_name(f"{ASIDE}{this_process()}-{rest}")


def verify_folder(folder: Path) -> dict[str, object]:
    """Check every file of a folder against its manifest and return the manifest.

    Errors: those of `read_manifest`, core.missing_file, core.hash_differs, core.unknown_file, core.unreadable.
    """
    manifest = read_manifest(folder)
    stated = cast(dict[str, str], manifest["files"])
    try:
        found = folder_hashes(folder)
    except OSError as error:
        raise TunesmithError("core.unreadable", path=str(error.filename or folder), reason=str(error)) from error
    for name, digest in stated.items():
        if name not in found:
            raise TunesmithError("core.missing_file", path=str(folder / name))
        if found[name] != digest:
            raise TunesmithError("core.hash_differs", path=str(folder / name))
    for name in found:
        if name not in stated:
            raise TunesmithError("core.unknown_file", path=str(folder / name))
    return manifest


def verify_file(folder: Path, name: str) -> None:
    """Check one file against its folder's manifest, for what is read before the whole folder is checked.

    Errors: those of `read_manifest`, core.missing_file, core.hash_differs, core.unknown_file.
    """
    stated = cast(dict[str, str], read_manifest(folder)["files"])
    if name not in stated:
        raise TunesmithError("core.unknown_file", path=str(folder / name))
    if not (folder / name).is_file():
        raise TunesmithError("core.missing_file", path=str(folder / name))
    if sha256_file(folder / name) != stated[name]:
        raise TunesmithError("core.hash_differs", path=str(folder / name))


def is_whole(folder: Path, **stated: object) -> bool:
    """Whether a folder is there, every byte of it is as it was written, and its manifest states these facts."""
    try:
        return folder.is_dir() and stated.items() <= verify_folder(folder).items()
    except TunesmithError:
        return False


def remove_rubbish(folder: Path, *, alone: bool = False) -> None:
    """Clear away what killed processes left directly inside `folder`; what a living one may be writing stays.

    Of other machines nobody here can know who lives: what is theirs goes after a week in which nothing of it changed.
    A folder that was moved out of the way of a replacement which never took its place goes back to its name. What
    cannot be removed costs space and stays.

    Args:
        alone: the caller holds a lock that keeps everybody else out, on other machines too: whoever wrote is dead.

    Errors: those of `disk_errors`, where a folder cannot go back.
    """
    for entry in sorted(folder.glob(f"{ASIDE}*")):
        writer, rest = writer_of(entry.name, ASIDE)
        living = None if not writer else is_living(writer)
        if living is None and alone:
            living = False
        place = folder / rest.removeprefix(f"{_OLDER}-")
        if living:
            continue
        if rest.startswith(f"{_OLDER}-") and not place.exists():
            if living is False or _stays_half_done(entry, place):
                _put_back(entry, place)
        elif living is False or _seconds_untouched(entry) > _UNTOUCHED:
            _remove(entry)


def _stays_half_done(older: Path, place: Path) -> bool:
    """Whether a replacement on another machine has stopped between its two renames."""
    until = time.monotonic() + _HALF_DONE
    while time.monotonic() < until:
        if place.exists() or not older.exists():
            return False
        time.sleep(_BETWEEN_LOOKS)
    return True


def _put_back(older: Path, place: Path) -> None:
    with disk_errors(place):
        try:
            older.rename(place)
        except OSError:
            if not place.exists():  # else another one was quicker
                raise


def _seconds_untouched(path: Path) -> float:
    """How long ago anything in a folder (or a file) changed, by the clock of the disk that it is on."""
    clock = _aside(path, uuid.uuid4().hex[:12])
    try:
        clock.touch()
        now = clock.stat().st_mtime
        return now - max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except OSError:  # it goes away or changes as we look, or cannot be removed anyway
        return 0.0
    finally:
        with suppress(OSError):
            clock.unlink()


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        with suppress(OSError):
            path.unlink()


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is never seen half gone, not even after a power cut.

    One that cannot be removed costs space and stays.
    """
    aside = _aside(path, uuid.uuid4().hex[:12])
    try:
        path.rename(aside)
        fsync_path(path.parent)
    except OSError:
        with suppress(OSError):
            aside.rename(path)
        return
    shutil.rmtree(aside, ignore_errors=True)
