"""Parquet files: their row groups can be read one without the others."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.spans import check_spans

PARQUET = ".parquet"
_LARGEST = 1 << 27
"""Bytes of a row group, which can only be read as a whole: several are held in memory at a time, each a few times."""
_BROKEN = (pa.ArrowException, OSError, ValueError)


def group_sizes(path: Path) -> list[int]:
    """Unpacked bytes of each row group. Errors: those of `check_spans`; data.corpus_group_size, data.empty_file."""
    check_spans(path, path.stat().st_size, path)
    found = pq.ParquetFile(path).metadata
    sizes = [int(found.row_group(place).total_byte_size) for place in range(found.num_row_groups)]
    if not found.num_rows:
        raise TunesmithError("data.empty_file", path=str(path))
    if max(sizes) > _LARGEST:
        most, largest = _LARGEST // 2**20, -(-max(sizes) // 2**20)
        raise TunesmithError("data.corpus_group_size", path=str(path), largest_mb=largest, most_mb=most)
    return sizes


def text_columns(path: Path) -> frozenset[str]:
    """Names of the columns that hold nothing but texts."""
    return frozenset(each.name for each in pq.read_schema(path) if each.type in (pa.string(), pa.large_string()))


def read_groups(path: Path, start: int, end: int, columns: list[str] | None = None) -> pl.DataFrame:
    """Row groups [start, end): some columns, or all. Errors: data.broken_file."""
    try:
        read = pq.ParquetFile(path).read_row_groups(list(range(start, end)), columns, use_threads=False)
        frame = pl.from_arrow(read)
    except (*_BROKEN, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise TunesmithError("data.broken_file", path=str(path), format="parquet") from error
    assert isinstance(frame, pl.DataFrame)
    return frame
