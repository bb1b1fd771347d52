"""What a compressed file or an archive holds, within limits. Nothing here writes to the disk.

A few kB can unpack to all the memory there is, so that both the size and the ratio are bounded while bytes come out,
whatever the file says of itself. A file that ends early or goes on behind its end is refused as a whole: half of the
rows would look like all of them.
"""

from __future__ import annotations

import io
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.kinds import TGZ

MOST_BYTES = 4 * 2**30
"""Bytes that one file or archive may unpack to."""
MOST_RATIO = 250
"""Bytes that one packed byte may unpack to: JSON lines of logs reach 50, zeros 1,000 and more."""
FREE_BYTES = 64 * 2**20
"""Up to here the ratio does not matter: a small file may be very even."""
MOST_MEMBERS = 10_000
"""Files in an archive."""

_CHUNK = 2**20
_XZ_MEMORY = 256 * 2**20
_BROKEN = (
    EOFError,
    OSError,
    ValueError,
    KeyError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
    NotImplementedError,
)
"""What the libraries raise for damaged content."""
_ENCRYPTED = 0x1
ODD_NAME = re.compile(r"/|[A-Za-z]:|.*[\\\x00]|(?:.*/)?\.\.(?:/|$)", re.DOTALL)
"""A name that begins at the root or on a drive, holds a backslash or NUL, or leaves its folder."""
_ODD_KINDS = frozenset({stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK})


@dataclass(frozen=True)
class Member:
    """One file in an archive by its name there, with its bytes."""

    name: str
    content: bytes


class _Counter:
    """Counts the bytes that come out, and refuses too many. Errors: data.unpacks_too_far."""

    def __init__(self, path: Path, packed: int) -> None:
        self._path = path
        self._packed = packed
        self._bytes = 0

    def count(self, chunk: bytes, taken: int | None = None) -> bytes:
        """The chunk, unless it is too much for the packed bytes that were `taken` so far; none are all of them.

        Held to what was taken, a large file that is even throughout is refused at its beginning, not after gigabytes.
        """
        self.expect(len(chunk), taken)
        return chunk

    def expect(self, more: int, taken: int | None = None) -> None:
        self._bytes += more
        most = min(MOST_BYTES, max(FREE_BYTES, MOST_RATIO * (self._packed if taken is None else taken)))
        if self._bytes > most:
            raise TunesmithError("data.unpacks_too_far", path=str(self._path), most_mb=most // 2**20)


def unpressed(path: Path) -> bytes:
    """The bytes that a .gz, .bz2, .xz or .zst file holds. Errors: those of `unpressed_chunks`."""
    return b"".join(unpressed_chunks(path))


def unpressed_chunks(path: Path) -> Iterator[bytes]:
    """The same, some at a time. Nothing of it counts before the last: what is wrong may only be seen there.

    Errors: data.broken_packed where it ends early, goes on behind its end or fails its check, data.unpacks_too_far.
    """
    counter = _Counter(path, path.stat().st_size)
    chunks = _xz_chunks(path) if path.suffix.lower() == ".xz" else _arrow_chunks(path)
    while True:
        try:
            found = next(chunks, None)
        except _BROKEN as error:
            raise TunesmithError("data.broken_packed", path=str(path), format=path.suffix[1:]) from error
        if found is None:
            return
        yield counter.count(*found)


_Chunks = Iterator[tuple[bytes, int]]
"""What came out, and how many packed bytes were taken for it and all before."""


def _arrow_chunks(path: Path) -> _Chunks:
    """Arrow's reader notices a cut end and what follows behind the last stream, where Python's own do not always."""
    codec = {".gz": "gzip", TGZ: "gzip", ".bz2": "bz2", ".zst": "zstd"}[path.suffix.lower()]
    with pa.OSFile(str(path)) as file, pa.CompressedInputStream(file, codec) as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk, file.tell()


def _xz_chunks(path: Path) -> _Chunks:
    """One stream after another; the module's own reader passes over what stands behind the first."""
    with path.open("rb") as file:
        left = file.read(_CHUNK)
        while left:
            stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            while True:
                yield stream.decompress(left, _CHUNK), file.tell()
                if stream.eof:
                    break
                left = file.read(_CHUNK) if stream.needs_input else b""
                if stream.needs_input and not left:
                    raise EOFError
            left = (stream.unused_data or file.read(_CHUNK)).lstrip(b"\0") or file.read(_CHUNK)


def member_names(archive: Path | bytes, path: Path) -> list[str]:
    """Names of the files in a zip archive, in order; folders are none.

    Args:
        archive: where it lies, or its bytes.
        path: what messages call it.

    Errors: data.broken_packed, data.unpacks_too_far, data.too_many_members, data.odd_member (a name that leaves the
    archive, a link, a name that stands twice), data.locked_archive: all that the archive says of itself is checked
    before the first file is unpacked.
    """
    with _opened(archive, path) as found:
        listed = found.infolist()
        _check_members(listed, _size(archive), path)
        return sorted(each.filename for each in listed if not each.is_dir())


def members(archive: Path | bytes, path: Path, names: Iterable[str]) -> Iterator[Member]:
    """These files of an archive, whose `member_names` were asked before.

    Errors: data.broken_packed, data.unpacks_too_far.
    """
    counter = _Counter(path, _size(archive))
    with _opened(archive, path) as found:
        for name in names:
            with found.open(name) as stream:
                chunks = iter(partial(stream.read, _CHUNK), b"")
                yield Member(name, b"".join(map(counter.count, chunks)))


@contextmanager
def _opened(archive: Path | bytes, path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(archive) if isinstance(archive, bytes) else archive) as found:
            yield found
    except _BROKEN as error:
        raise TunesmithError("data.broken_packed", path=str(path), format="zip") from error


def _size(archive: Path | bytes) -> int:
    return len(archive) if isinstance(archive, bytes) else archive.stat().st_size


def _check_members(listed: list[zipfile.ZipInfo], packed: int, path: Path) -> None:
    if len(listed) > MOST_MEMBERS:
        raise TunesmithError("data.too_many_members", path=str(path), found=len(listed), most=MOST_MEMBERS)
    seen: set[str] = set()
    for each in listed:
        odd = ODD_NAME.match(each.orig_filename) or stat.S_IFMT(each.external_attr >> 16) in _ODD_KINDS
        if odd or each.filename in seen:
            raise TunesmithError("data.odd_member", path=str(path), name=ascii(each.orig_filename[:200]))
        seen.add(each.filename)
        if each.flag_bits & _ENCRYPTED:
            raise TunesmithError("data.locked_archive", path=str(path))
    if sum(each.compress_size for each in listed) > packed:  # members that share their bytes
        raise TunesmithError("data.broken_packed", path=str(path), format="zip")
    _Counter(path, packed).expect(sum(each.file_size for each in listed))
