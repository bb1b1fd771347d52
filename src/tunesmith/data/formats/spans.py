"""What a Parquet file says it unpacks to, looked at before a byte of it is unpacked."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.unpack import FREE_BYTES, MOST_RATIO

_FREE_CELLS = 10_000_000
_CELLS_OF_A_BYTE = 100
"""Values that repeat cost almost nothing in a file and their full size in memory. Rows of text have no such ratio: a
byte of a file holds at most a few short words, and no more columns of one value than there are bytes in its texts."""


def check_spans(source: Path | io.BytesIO, size: int, path: Path) -> None:
    """Hold what the file's own index says of its size against the size of the file.

    Errors: data.broken_file, data.unpacks_too_far.
    """
    try:
        found = pq.ParquetFile(source).metadata
        groups = [found.row_group(number) for number in range(found.num_row_groups)]
        unpacked = sum(int(group.total_byte_size) for group in groups)
        cells = int(found.num_rows) * int(found.num_columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TunesmithError("data.broken_file", path=str(path), format="parquet") from error
    finally:
        if isinstance(source, io.BytesIO):
            source.seek(0)
    if unpacked > max(FREE_BYTES, MOST_RATIO * size) or cells > max(_FREE_CELLS, _CELLS_OF_A_BYTE * size):
        most = max(FREE_BYTES, MOST_RATIO * size) // 2**20
        raise TunesmithError("data.unpacks_too_far", path=str(path), most_mb=most)
