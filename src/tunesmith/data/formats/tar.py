"""What a tar archive holds, in memory and within limits, as `unpack` does it for zip archives."""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.unpack import MOST_MEMBERS, ODD_NAME, Member

_END = bytes(2 * tarfile.BLOCKSIZE)
"""What every archive ends with: without it some of it may be missing, and nothing else may stand behind."""


def tar_names(content: bytes, path: Path) -> list[str]:
    """Names of the files in a tar archive, in order; folders are none.

    Args:
        content: the archive, unpacked if it was compressed.
        path: what messages call it.

    Errors: data.broken_packed, data.too_many_members, data.odd_member (as of zip archives, and a file with holes).
    """
    with _opened(content, path) as found:
        names = [name for name, _ in _files(found, path)]
        end = found.offset
        if not content.startswith(_END, end) or content.count(0, end) < len(content) - end:
            raise tarfile.ReadError
        return sorted(names)


def tar_members(content: bytes, path: Path, names: Iterable[str]) -> Iterator[Member]:
    """These files of an archive, whose `tar_names` were asked before. Errors: data.broken_packed."""
    with _opened(content, path) as found:
        files = dict(_files(found, path))
        for name in names:
            stream = found.extractfile(files[name])
            yield Member(name, b"" if stream is None else stream.read())


def _files(found: tarfile.TarFile, path: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Every plain file by its name, of which a leading ./ is no part."""
    seen: set[str] = set()
    for place, each in enumerate(found):
        if place >= MOST_MEMBERS:
            raise TunesmithError("data.too_many_members", path=str(path), found=place + 1, most=MOST_MEMBERS)
        name = posixpath.normpath(each.name)
        plain = each.isdir() or (each.isreg() and not each.issparse())
        if not plain or ODD_NAME.match(each.name) or name in seen or not _is_text(name):
            raise TunesmithError("data.odd_member", path=str(path), name=ascii(each.name[:200]))
        seen.add(name)
        if each.isreg():
            yield name, each


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _opened(content: bytes, path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.TarFile(fileobj=io.BytesIO(content)) as found:
            yield found
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise TunesmithError("data.broken_packed", path=str(path), format="tar") from error
