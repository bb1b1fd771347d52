"""Parquet and Arrow files a few rows at a time, and single cells of them: never all that they hold in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.arrow_spans import check_arrow_spans
from tunesmith.data.formats.spans import check_spans

COLUMNAR = frozenset({".parquet", ".arrow", ".feather"})
_AT_ONCE = 8
"""Rows that stand in memory together: a cell holds up to 1 GB."""


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TunesmithError("data.broken_file", path=str(path), format=path.suffix[1:]) from error


def _reader(path: Path) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    """Arrow's file form, else its stream form, both laid over the file without a copy. Errors: data.unpacks_too_far."""
    mapped = pa.memory_map(str(path))
    content = mapped.read_buffer()
    check_arrow_spans(content, path)
    whole = content[:6].to_pybytes() == b"ARROW1"
    return pa.ipc.open_file(content) if whole else pa.ipc.open_stream(content)


def schema_of(path: Path) -> pa.Schema:
    """The columns of a file and what it says of them. Errors: data.broken_file."""
    with _refusing(path):
        return pq.read_schema(path) if path.suffix.lower() == ".parquet" else _reader(path).schema


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix.lower() == ".parquet":
        check_spans(path, path.stat().st_size, path)
        with _refusing(path), pq.ParquetFile(path) as table:
            yield from table.iter_batches(_AT_ONCE)
        return
    with _refusing(path):
        reader = _reader(path)
        whole = isinstance(reader, pa.RecordBatchFileReader)
        stored = (reader.get_batch(n) for n in range(reader.num_record_batches)) if whole else iter(reader)
        for batch in stored:
            for first in range(0, len(batch), _AT_ONCE):
                yield batch.slice(first, _AT_ONCE)


def rows_of_table(path: Path) -> Iterator[dict[str, object]]:
    """The rows of a file, one after another. Errors: data.broken_file, data.unpacks_too_far."""
    for batch in _batches(path):
        with _refusing(path):
            listed_rows: list[dict[str, object]] = batch.to_pylist()
        yield from listed_rows


@lru_cache(maxsize=2)
def _table(path: Path, column: str, group: int, _changed: int, size: int) -> pa.ChunkedArray:
    """A column of a row group of a Parquet file, or of a whole Arrow file."""
    with _refusing(path):
        if group < 0:
            return _reader(path).read_all().column(column)
        check_spans(path, size, path)
        with pq.ParquetFile(path) as table:
            return table.read_row_group(group, columns=[column]).column(column)


def cell_of(path: Path, column: str, row: int) -> object:
    """What stands in one cell; None behind the last row. Errors: data.broken_file, data.unpacks_too_far."""
    stat = path.stat()
    cells, first = _column_with(path, column, row, stat.st_mtime_ns, stat.st_size)
    found: object = cells[row - first].as_py() if 0 <= row - first < len(cells) else None
    return found


def _column_with(path: Path, column: str, row: int, changed: int, size: int) -> tuple[pa.ChunkedArray, int]:
    """The part of a column that holds a row, and the number of its first one."""
    if path.suffix.lower() != ".parquet":
        return _table(path, column, -1, changed, size), 0
    first = 0
    with _refusing(path):
        found = pq.read_metadata(path)
        for group in range(found.num_row_groups):
            rows = found.row_group(group).num_rows
            if row < first + rows:
                return _table(path, column, group, changed, size), first
            first += rows
    return pa.chunked_array([], pa.binary()), first
