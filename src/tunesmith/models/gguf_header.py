"""The header of a GGUF file, checked before any reader of such files sees it.

    magic "GGUF", version (u32), number of tensors (u64), number of settings (u64)
    each setting: key (u64 length, bytes), type (u32), value; an array is a type (u32), a length (u64) and its values
    each tensor:  name, number of dimensions (u32), dimensions (u64 each), type (u32), place behind the header (u64)
    padding to a multiple of `general.alignment`, then the tensors' bytes

Readers have taken counts, dimensions and places from such headers at their word, and wrote or read beyond what they
had. Here every size is held to the file's own length, in Python's integers, before it is used for anything.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import BinaryIO

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from tunesmith.core.errors import TunesmithError

_MOST_SETTINGS = 4096
_MOST_TENSORS = 65_536
_LONGEST_KEY = 1024
_LONGEST_TEXT = 16 << 20
_MOST_ITEMS = 2**21
"""In all arrays of a file together; a vocabulary of 262,144 tokens with types, scores and merges has half as many."""

_MOST_DIMENSIONS = 4
_LARGEST_ALIGNMENT = 65_536
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_DEFAULT_ALIGNMENT = 32


class _BrokenError(Exception):
    """What is wrong with a header."""


def check_header(path: Path) -> None:
    """Refuse a file whose header does not hold together. Errors: models.broken_gguf, with what is wrong."""
    try:
        with path.open("rb") as stream:
            _Header(stream, path.stat().st_size).check()
    except (_BrokenError, OSError) as error:
        raise TunesmithError("models.broken_gguf", path=str(path), reason=str(error)) from error


class _Header:
    def __init__(self, stream: BinaryIO, total: int) -> None:
        self._stream = stream
        self._total = total
        self._alignment = _DEFAULT_ALIGNMENT
        self._items = 0

    def check(self) -> None:
        """Walk through settings and tensors to the end of the file."""
        if self._bytes(4) != b"GGUF":
            raise _BrokenError("it does not begin with GGUF")
        version = self._u32()
        if version not in (2, 3):
            raise _BrokenError(f"version {version}")
        tensors, settings = self._u64(), self._u64()
        if tensors > _MOST_TENSORS or settings > _MOST_SETTINGS:
            raise _BrokenError(f"{tensors} tensors and {settings} settings")
        keys: set[bytes] = set()
        for _ in range(settings):
            key = self._text(_LONGEST_KEY)
            if key in keys:
                raise _BrokenError(f"the setting {_shown(key)} stands twice")
            keys.add(key)
            self._value(key, self._u32())
        self._check_tensors(tensors)

    def _check_tensors(self, count: int) -> None:
        names: set[bytes] = set()
        places: list[tuple[int, int, bytes]] = []
        for _ in range(count):
            name = self._text(_LONGEST_KEY)
            if name in names:
                raise _BrokenError(f"the tensor {_shown(name)} stands twice")
            names.add(name)
            places.append((*self._place(name), name))
        start = -(-self._stream.tell() // self._alignment) * self._alignment
        reached = 0
        for begin, end, name in sorted(places):
            if begin < reached or begin % self._alignment:
                raise _BrokenError(f"{_shown(name)} overlaps another tensor or is not aligned")
            if start + end > self._total:
                raise _BrokenError(f"{_shown(name)} ends at byte {start + end} of {self._total}")
            reached = end

    def _place(self, name: bytes) -> tuple[int, int]:
        """First byte of a tensor and the one behind it, counted from the end of the header."""
        dimensions = self._u32()
        if not 0 < dimensions <= _MOST_DIMENSIONS:
            raise _BrokenError(f"{_shown(name)} has {dimensions} dimensions")
        shape = [self._u64() for _ in range(dimensions)]
        kind = self._u32()
        if kind not in list(GGMLQuantizationType):
            raise _BrokenError(f"{_shown(name)} is of the unknown type {kind}")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if 0 in shape or shape[0] % block:
            raise _BrokenError(f"{_shown(name)} has rows of {shape[0]} values in blocks of {block}")
        begin = self._u64()
        return begin, begin + prod(shape) // block * block_bytes

    def _value(self, key: bytes, kind: int) -> None:
        if key == b"general.alignment":
            alignment = self._u32() if kind == _UINT32 else 0
            if not 0 < alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
                raise _BrokenError(f"an alignment of {alignment}")
            self._alignment = alignment
        elif kind == _ARRAY:
            inner, length = self._u32(), self._u64()
            self._items += length
            if self._items > _MOST_ITEMS:
                raise _BrokenError(f"{_shown(key)} has {length} values, and its arrays together {self._items}")
            if inner == _STRING:
                for _ in range(length):
                    self._text(_LONGEST_TEXT)
            else:
                self._skip(length * self._scalar_bytes(key, inner))
        elif kind == _STRING:
            self._text(_LONGEST_TEXT)
        else:
            self._skip(self._scalar_bytes(key, kind))

    def _scalar_bytes(self, key: bytes, kind: int) -> int:
        if kind not in _SCALAR_BYTES:
            raise _BrokenError(f"{_shown(key)} is of the unknown type {kind}")
        return _SCALAR_BYTES[kind]

    def _text(self, longest: int) -> bytes:
        length = self._u64()
        if length > longest:
            raise _BrokenError(f"a text of {length} bytes")
        return self._bytes(length)

    def _bytes(self, count: int) -> bytes:
        found = self._stream.read(count)
        if len(found) < count:
            raise _BrokenError(f"it ends within its header, at byte {self._total}")
        return found

    def _skip(self, count: int) -> None:
        if count > self._total - self._stream.tell():
            raise _BrokenError(f"it ends within its header, at byte {self._total}")
        self._stream.seek(count, 1)

    def _u32(self) -> int:
        return int(struct.unpack("<I", self._bytes(4))[0])

    def _u64(self) -> int:
        return int(struct.unpack("<Q", self._bytes(8))[0])


def _shown(name: bytes) -> str:
    return name.decode("utf-8", errors="replace")[:80]
