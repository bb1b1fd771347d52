"""Safetensors files that say what is not so, and mutations of a good one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping

Header = dict[str, object]


def tensor(begin: int, end: int, shape: list[object] | None = None, dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def written(header: Mapping[str, object] | str | bytes, data: int = 16, length: int | None = None) -> bytes:
    """A file with this header, so many bytes behind it, and the length stated, or another one."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(data)


GOOD: Header = {"a": tensor(0, 8), "b": tensor(8, 16)}

CRAFTED: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"\x01" * 7,
    "a header longer than the file": written(GOOD, length=10**6),
    "a header of 2^64 bytes": written(GOOD, length=2**64 - 1),
    "a header of 2^63 bytes": written(GOOD, length=2**63),
    "a header of two megabytes": written("{" + " " * (2 << 20) + "}"),
    "a header of no bytes": written(b""),
    "no JSON": written(b"{" + b"\xff" * 40),
    "a list": written("[]"),
    "half a million brackets": written('{"a":' + "[" * 500_000),
    "50,000 empty lists": written('{"a":[' + "[]," * 50_000 + "[]]}"),
    "cut": written(GOOD)[:-3],
    "bytes behind": written(GOOD, data=17),
    "an overlap": written({"a": tensor(0, 8), "b": tensor(4, 12)}, data=12),
    "the same place twice": written({"a": tensor(0, 8), "b": tensor(0, 8)}, data=8),
    "a hole": written({"a": tensor(0, 4), "b": tensor(8, 12)}, data=12),
    "a hole at the start": written({"a": tensor(4, 8)}, data=8),
    "beyond the end": written({"a": tensor(0, 64)}, data=16),
    "backwards": written({"a": tensor(8, 0, [2])}, data=8),
    "negative places": written({"a": tensor(-8, 0, [2])}, data=0),
    "another shape": written({"a": tensor(0, 16, [5])}),
    "another number format": written({"a": tensor(0, 16, [4], "F64")}),
    "an unknown number format": written({"a": tensor(0, 16, [4], "F128")}),
    "a number format that is a list": written({"a": {**tensor(0, 16), "dtype": []}}),
    "a shape that overflows": written({"a": tensor(0, 16, [2**32, 2**32, 2**2])}),
    "a shape that overflows to nothing": written({"a": tensor(0, 0, [2**62, 4])}, data=0),
    "negative sizes": written({"a": tensor(0, 16, [-2, -2])}),
    "sizes as text": written({"a": tensor(0, 16, ["4"])}),
    "true as a size": written({"a": tensor(0, 4, [True])}, data=4),
    "a size of 1e3": written('{"a":{"dtype":"F32","shape":[4e0],"data_offsets":[0,16]}}'),
    "a thousand dimensions": written({"a": tensor(0, 4, [1] * 1000)}, data=4),
    "a name twice": written(f'{{"a":{json.dumps(tensor(0, 16))},"a":{json.dumps(tensor(0, 16))}}}'),
    "a key twice": written('{"a":{"dtype":"F32","dtype":"F64","shape":[4],"data_offsets":[0,16]}}'),
    "more keys": written({"a": {**tensor(0, 16), "pickle": "x"}}),
    "fewer keys": written({"a": {"dtype": "F32", "shape": [4]}}),
    "three places": written('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8,16]}}'),
    "metadata that is no table": written({"__metadata__": ["x"], **GOOD}),
    "metadata of tables": written({"__metadata__": {"a": {"b": "c"}}, **GOOD}),
    "not a number": written('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'),
    "a number of 10,000 digits": written('{"a":{"dtype":"F32","shape":[' + "9" * 10_000 + '],"data_offsets":[0,16]}}'),
}


def _flip(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.randint(1, 4)):
        data[draw.randrange(min(len(data), 400))] ^= 1 << draw.randrange(8)


def _cut(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data)) :]


def _insert(draw: random.Random, data: bytearray) -> None:
    place = draw.randrange(len(data))
    data[place:place] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 16)))


def _length(draw: random.Random, data: bytearray) -> None:
    data[:8] = draw.choice([0, 1, 2**16, 2**31, 2**63, 2**64 - 1, len(data), draw.randrange(2**20)]).to_bytes(
        8, "little"
    )


def _digit(draw: random.Random, data: bytearray) -> None:
    places = [place for place, byte in enumerate(data[8:400], start=8) if chr(byte).isdigit()]
    if places:
        data[draw.choice(places)] = ord(draw.choice("0123456789"))


def _word(draw: random.Random, data: bytearray) -> None:
    old, new = draw.choice(
        [
            (b"F32", b"F16"),
            (b"F32", b"I64"),
            (b"F32", b"Q4_0"),
            (b"shape", b"shap\x00"),
            (b"[", b"[["),
            (b"]", b"]]"),
            (b":", b""),
        ]
    )
    place = data.find(old, draw.randrange(200))
    if place >= 0:
        data[place : place + len(old)] = new


def _double(draw: random.Random, data: bytearray) -> None:
    first, last = sorted(draw.randrange(8, len(data)) for _ in range(2))
    data[last:last] = data[first:last]


_MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    _flip, _cut, _insert, _length, _digit, _digit, _word, _double,
)  # fmt: skip


def mutated(draw: random.Random, good: bytes) -> bytes:
    """A good file with one to three things wrong; now and then the length of the header is mended again."""
    data = bytearray(good)
    for _ in range(draw.randint(1, 3)):
        if len(data) > 16:
            draw.choice(_MUTATIONS)(draw, data)
    if draw.random() < 0.3 and b"}}" in data:
        data[:8] = (data.index(b"}}") + 2 - 8).to_bytes(8, "little")
    return bytes(data)
