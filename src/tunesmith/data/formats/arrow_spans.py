"""What an Arrow file says it unpacks to, told from its messages before a byte of them is unpacked.

The headers of messages are flatbuffers (format/Message.fbs and File.fbs of Apache Arrow): a table begins with the way
back to a list of its fields' places, 0 where a field is not there. A packed buffer begins with its length unpacked, or
-1 where it is not packed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.unpack import FREE_BYTES, MOST_RATIO

_MAGIC = b"ARROW1"
_DICTIONARY, _RECORDS = 2, 3
"""Kinds of messages that hold buffers."""
_BLOCK = struct.Struct("<qi4xq")
"""Where a message of a file begins, how long its header is with what stands before that, and its body."""


def check_arrow_spans(content: pa.Buffer, path: Path) -> None:
    """Hold what the buffers of a file or a stream say of their size against its own.

    Errors: data.broken_file, data.unpacks_too_far.
    """
    most, unpacked = max(FREE_BYTES, MOST_RATIO * content.size), 0
    try:
        for header, body in _messages(content):
            unpacked += _unpacked(header, body)
            if unpacked > most:
                raise TunesmithError("data.unpacks_too_far", path=str(path), most_mb=most // 2**20)
    except (pa.ArrowException, OSError, ValueError, struct.error) as error:
        raise TunesmithError("data.broken_file", path=str(path), format="arrow") from error


def _messages(content: pa.Buffer) -> Iterator[tuple[memoryview, memoryview]]:
    """Header and body of each message: a file's by its footer, as its readers go; a stream's in their order."""
    whole = memoryview(content)
    if bytes(whole[: len(_MAGIC)]) == _MAGIC:
        yield from _blocks(whole)
        return
    reader = pa.ipc.MessageReader.open_stream(pa.BufferReader(content))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        yield memoryview(message.metadata), memoryview(message.body or b"")


def _blocks(whole: memoryview) -> Iterator[tuple[memoryview, memoryview]]:
    end = len(whole) - len(_MAGIC) - 4
    (length,) = struct.unpack_from("<i", whole, max(0, end))
    if not 0 < length <= end:
        raise ValueError("a footer that is not there")
    footer = whole[end - length : end]
    (root,) = struct.unpack_from("<I", footer, 0)
    for number in (2, 3):  # dictionaries, and records
        listed = _field(footer, root, number)
        first = _followed(footer, listed) if listed else 0
        count = struct.unpack_from("<I", footer, first)[0] if listed else 0
        for place in range(count):
            begin, before, body = _BLOCK.unpack_from(footer, first + 4 + _BLOCK.size * place)
            if not (0 <= begin and 0 <= before and 0 <= body and begin + before + body <= len(whole)):
                raise ValueError("a message that is not there")
            prefix = 8 if bytes(whole[begin : begin + 4]) == b"\xff\xff\xff\xff" else 4
            yield whole[begin + prefix : begin + before], whole[begin + before : begin + before + body]


def _unpacked(header: memoryview, content: memoryview) -> int:
    """Bytes of all buffers of a message when unpacked. Raises struct.error where a place leads out of it."""
    (root,) = struct.unpack_from("<I", header, 0)
    kind_at, table_at = _field(header, root, 1), _field(header, root, 2)
    kind = header[kind_at] if kind_at and kind_at < len(header) else 0
    if kind not in (_DICTIONARY, _RECORDS) or not table_at:
        return 0
    batch = _followed(header, table_at)
    if kind == _DICTIONARY:
        batch = _followed(header, _field(header, batch, 1))
    buffers_at, packed = _field(header, batch, 2), _field(header, batch, 3)
    if not buffers_at:
        return 0
    first = _followed(header, buffers_at)
    (count,) = struct.unpack_from("<I", header, first)
    total = 0
    for place in range(count):
        offset, length = struct.unpack_from("<qq", header, first + 4 + 16 * place)
        stated = struct.unpack_from("<q", content, offset)[0] if packed and length >= 8 else -1
        total += max(0, length if stated < 0 else stated)
    return total


def _followed(header: memoryview, place: int) -> int:
    """Where the offset at a place leads."""
    return place + int(struct.unpack_from("<I", header, place)[0])


def _field(header: memoryview, table: int, number: int) -> int:
    """The place of a field of a table, 0 where it is not there."""
    fields = table - struct.unpack_from("<i", header, table)[0]
    size = struct.unpack_from("<H", header, fields)[0]
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", header, fields + at)[0] if at + 2 <= size else 0
    return table + int(offset) if offset else 0
