"""Arrow files that unpack to far more than they hold are refused before they are unpacked, in either form."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.arrow_spans import check_arrow_spans
from tunesmith.data.formats.files import read_file


def stored(path: Path, made: pa.Table, packed: str | None, *, stream: bool) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=packed)
    writer = pa.ipc.new_stream if stream else pa.ipc.new_file
    with writer(str(path), made.schema, options=options) as sink:
        sink.write_table(made, max_chunksize=1000)
    return path


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("packed", [None, "zstd", "lz4"])
def test_usual_files_are_read(tmp_path: Path, packed: str | None, stream: bool) -> None:
    coloured = pa.array(["red", "green", "red"] * 1000).dictionary_encode()
    made = pa.table({"text": [f"row {n}" for n in range(3000)], "colour": coloured, "none": [None] * 3000})
    path = stored(tmp_path / "a.arrow", made, packed, stream=stream)
    assert len(read_file(path).rows) == 3000
    pl.DataFrame({"text": ["a", "b"]}).write_ipc(tmp_path / "b.arrow", compression="zstd")
    assert len(read_file(tmp_path / "b.arrow").rows) == 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("packed", ["zstd", "lz4"])
def test_a_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, packed: str, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "a.arrow", pa.table({"text": ["a" * 4_000_000]}), packed, stream=stream)
    size = path.stat().st_size
    assert size < 40_000
    monkeypatch.setattr("tunesmith.data.formats.arrow_spans.FREE_BYTES", 3_900_000)
    monkeypatch.setattr("tunesmith.data.formats.arrow_spans.MOST_RATIO", 2)
    before = pa.total_allocated_bytes()
    with pytest.raises(TunesmithError, match=r"data.unpacks_too_far"):
        read_file(path)
    assert pa.total_allocated_bytes() - before < 1_000_000
    monkeypatch.setattr("tunesmith.data.formats.arrow_spans.FREE_BYTES", 4_100_000)
    assert len(read_file(path).rows) == 1, "the count is that of the unpacked bytes"


@pytest.mark.parametrize("stream", [True, False])
def test_damaged_headers_are_refused_and_never_read_past(tmp_path: Path, stream: bool) -> None:
    path = stored(tmp_path / "a.arrow", pa.table({"text": ["row"] * 50}), "zstd", stream=stream)
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        try:
            check_arrow_spans(pa.py_buffer(bytes(damaged)), path)
        except TunesmithError as error:
            assert error.code in ("data.broken_file", "data.unpacks_too_far")
