"""Whether a file is a pickle, or holds one: by what it is made of, not by its name."""

from __future__ import annotations

import gzip
import io
import pickletools
import tarfile
import zipfile
from pathlib import Path

_FEWEST_STEPS = 4
"""A text such as "N." is a whole pickle by chance; real ones have more steps, and an object is called or named."""

_MAKING = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"}


def pickles_in(path: Path) -> list[str]:
    """Names of the pickles in a file: its own, or of members of an archive in it."""
    return _found(path.read_bytes(), path.name)


def _found(content: bytes, name: str) -> list[str]:
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            inner = [_found(archive.read(each), f"{name}/{each}") for each in archive.namelist()]
        return [each for names in inner for each in names]
    if content[:2] == b"\x1f\x8b":
        return _found(gzip.decompress(content), f"{name}/gzip")
    if content[:6] == b"\x93NUMPY":
        return [name] if b"'descr': '|O'" in content[:200] else []
    if content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = [(each.name, archive.extractfile(each)) for each in archive if each.isfile()]
            inner = [_found(stream.read(), f"{name}/{each}") for each, stream in members if stream]
        return [each for names in inner for each in names]
    return [name] if _is_pickle(content) else []


def _is_pickle(content: bytes) -> bool:
    """A stream of pickle's steps from the first byte to STOP; torch's old form begins with such a stream too."""
    steps: list[str] = []
    try:
        for step, _, _ in pickletools.genops(content[: 1 << 20]):
            steps.append(step.name)
    except Exception:
        return False
    if steps and steps[0] == "PROTO":
        return True
    return len(steps) >= _FEWEST_STEPS and bool(_MAKING & set(steps))
