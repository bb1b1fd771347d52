"""The header of a safetensors file, checked before any library reads the file.

    8 bytes     N, length of the header, little endian
    N bytes     JSON: tensor name -> {"dtype", "shape", "data_offsets": [begin, end]}, and "__metadata__"
    the rest    the tensors' bytes, without holes, overlaps or anything behind them

Sizes are reckoned in Python's integers, which do not overflow; nothing is allocated that the file does not hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from tunesmith.core.errors import TunesmithError

LARGEST_HEADER_BYTES = 1 << 20
"""Room for 7,500 tensors; a dense model of 70 billion parameters has 723."""

_MOST_DIMENSIONS = 8
_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor as a header describes it. `dtype` is the format's name for the number format, such as "BF16"."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name. Errors: models.broken_weights, with what is wrong."""
    try:
        text, data_bytes = _header_text(path)
        tensors = {name: _stored(name, value) for name, value in _parse(text).items()}
        _check_cover(tensors, data_bytes)
    except (_BrokenError, OSError) as error:
        raise TunesmithError("models.broken_weights", path=str(path), reason=str(error)) from error
    return tensors


class _BrokenError(Exception):
    """What is wrong with a header."""


def _header_text(path: Path) -> tuple[bytes, int]:
    """The header's bytes and the number of bytes behind it."""
    total = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > total - 8:
            raise _BrokenError(f"a header of {length} bytes in a file of {total}")
        if length > LARGEST_HEADER_BYTES:
            raise _BrokenError(f"a header of {length} bytes, at most {LARGEST_HEADER_BYTES}")
        text = stream.read(length)
    if len(text) < length:
        raise _BrokenError("the file became shorter while it was read")
    return text, total - 8 - length


def _parse(text: bytes) -> dict[str, object]:
    if not text.startswith(b"{"):
        raise _BrokenError("the header is no JSON object")
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_without_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _BrokenError(f"the header is no JSON: {str(error)[:100]}") from error
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in metadata.values()):
        raise _BrokenError("__metadata__ is not a table of texts")
    return dict(values)


def _without_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _BrokenError("a name stands twice in the header")
    return found


def _no_constant(name: str) -> object:
    raise _BrokenError(f"{name} in the header")


def _stored(name: str, value: object) -> Stored:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _BrokenError(f"{name[:80]}: needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise _BrokenError(f"{name[:80]}: unknown number format {str(dtype)[:20]}")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS:
        raise _BrokenError(f"{name[:80]}: its shape is no list of at most {_MOST_DIMENSIONS} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _BrokenError(f"{name[:80]}: its place is no beginning and end")
    stored = Stored(dtype, tuple(shape), offsets[0], offsets[1])
    if prod(stored.shape) * _BYTES[dtype] != stored.end - stored.begin:
        raise _BrokenError(f"{name[:80]}: shape and number format do not fill its place")
    return stored


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 2**63 for each in value)


def _check_cover(tensors: Mapping[str, Stored], data_bytes: int) -> None:
    """The tensors lie one behind the other and fill the file."""
    reached = 0
    for name, each in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if each.begin != reached:
            what = "overlaps the one before it" if each.begin < reached else "leaves a hole before it"
            raise _BrokenError(f"{name[:80]} {what}")
        reached = each.end
    if reached != data_bytes:
        raise _BrokenError(f"the tensors take {reached} bytes, and {data_bytes} lie behind the header")
