"""Headers of GGUF files that claim too much are refused before a reader of such files sees them."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.models.gguf_header import check_header
from tunesmith.models.gguf_import import import_gguf
from tunesmith.models.load import load_tokenizer, template_of
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.models.weights import read_weights
from tunesmith.ship.formats.gguf import write_gguf


def text(words: str | bytes, length: int | None = None) -> bytes:
    content = words.encode() if isinstance(words, str) else words
    return struct.pack("<Q", len(content) if length is None else length) + content


def setting(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: list[int], kind: int = 0, begin: int = 0, dimensions: int | None = None) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", count, *shape, kind, begin)


def header(
    *parts: bytes, tensors: int = 0, settings: int = 0, version: int = 3, magic: bytes = b"GGUF", data: int = 0
) -> bytes:
    content = magic + struct.pack("<IQQ", version, tensors, settings) + b"".join(parts)
    return content + bytes(-len(content) % 32) + bytes(data)


ARRAY, STRING, UINT32 = 9, 8, 4
BROKEN = {
    "empty": b"",
    "magic": header(magic=b"GGML"),
    "version": header(version=99),
    "cut": b"GGUF\x03\0\0\0",
    "2^64 tensors": header(tensors=2**64 - 1),
    "2^64 settings": header(settings=2**64 - 1),
    "more tensors than there are": header(tensors=3),
    "a key of 2^63 bytes": header(text("x", 2**63), settings=1),
    "a text beyond the end": header(setting("a", STRING, text("x", 2**20)), settings=1),
    "an array of 2^62": header(setting("a", ARRAY, struct.pack("<IQ", UINT32, 2**62)), settings=1),
    "arrays of 3 million together": header(
        *[setting(key, ARRAY, struct.pack("<IQ", 0, 3 << 19) + bytes(3 << 19)) for key in "ab"], settings=2
    ),
    "an array beyond the end": header(setting("a", ARRAY, struct.pack("<IQ", UINT32, 2**20)), settings=1),
    "an array of arrays": header(setting("a", ARRAY, struct.pack("<IQ", ARRAY, 2) + bytes(64)), settings=1),
    "texts beyond the end": header(setting("a", ARRAY, struct.pack("<IQ", STRING, 2**20)), settings=1),
    "an unknown type": header(setting("a", 77, bytes(8)), settings=1),
    "a key twice": header(*[setting("a", UINT32, bytes(4))] * 2, settings=2),
    "alignment 0": header(setting("general.alignment", UINT32, bytes(4)), settings=1),
    "alignment 3": header(setting("general.alignment", UINT32, struct.pack("<I", 3)), settings=1),
    "alignment 2^31": header(setting("general.alignment", UINT32, struct.pack("<I", 2**31)), settings=1),
    "alignment as a text": header(setting("general.alignment", STRING, text("32")), settings=1),
    "no dimensions": header(tensor("a", []), tensors=1),
    "nine dimensions": header(tensor("a", [1] * 9), tensors=1),
    "10^9 dimensions": header(tensor("a", [1], dimensions=10**9), tensors=1),
    "a dimension of 0": header(tensor("a", [0, 4]), tensors=1),
    "dimensions that overflow": header(tensor("a", [2**32, 2**32]), tensors=1, data=64),
    "an unknown tensor type": header(tensor("a", [4], kind=999), tensors=1, data=64),
    "half a block": header(tensor("a", [33], kind=8), tensors=1, data=64),
    "beyond the end of the file": header(tensor("a", [1024]), tensors=1, data=64),
    "a place beyond the end": header(tensor("a", [4], begin=2**40), tensors=1, data=64),
    "a place that is not aligned": header(tensor("a", [4], begin=1), tensors=1, data=64),
    "an overlap": header(tensor("a", [16]), tensor("b", [16], begin=32), tensors=2, data=128),
    "a tensor twice": header(tensor("a", [4]), tensor("a", [4], begin=32), tensors=2, data=64),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_header_that_does_not_hold_together(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(BROKEN[name])
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(TunesmithError) as caught:
            check_header(path)
        assert time.process_time() - started < 1.0 and tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.code == "models.broken_gguf"


def test_a_good_header_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header(setting("a", STRING, text("x")), tensor("a", [4]), tensors=1, settings=1, data=64))
    check_header(path)


def test_a_mutated_file_is_imported_or_refused_by_a_code(tmp_path: Path) -> None:
    folder = tiny_chat_model(tmp_path / "base", layers=1)
    tokenizer = load_tokenizer(folder)
    good = write_gguf(
        tmp_path, "gguf-q8_0", read_weights(folder), folder, tokenizer, template_of(tokenizer), name="x", licence=""
    ).read_bytes()
    draw = random.Random(3)
    refused = 0
    for _ in range(60):
        data = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(4, 6000 if draw.random() < 0.5 else 600)
            if draw.random() < 0.5:
                data[place] ^= 1 << draw.randrange(8)
            else:
                data[place : place + 8] = draw.choice([0, 1, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
        path = tmp_path / "mutated.gguf"
        path.write_bytes(data)
        try:
            import_gguf(path)
        except TunesmithError as error:
            assert error.code.startswith("models."), error
            refused += 1
    assert refused > 30
