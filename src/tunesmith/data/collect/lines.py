"""Rows of databases as JSON lines: numbers stay numbers, JSON stays JSON, times are ISO 8601, other types are words."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal

import polars as pl
import pyarrow as pa

from tunesmith.core.errors import TunesmithError
from tunesmith.data.collect.postgresql import kind_of_column

_FROM_TEXT: dict[str, Callable[[str], object]] = {"numeric": Decimal, "json": json.loads, "jsonb": json.loads}


def lines_of_rows(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str) -> list[str]:
    """A line a row. Errors: data.binary_column."""
    return [
        json.dumps(
            {name: _plain(value, name, title) for name, value in zip(columns, row, strict=True)},
            ensure_ascii=False,
            default=str,
        )
        + "\n"
        for row in rows
    ]


def lines_of_columns(batch: pa.RecordBatch, title: str) -> list[str]:
    """The same of a batch of columns: texts and whole numbers, which most are, never become objects of Python.

    Errors: data.binary_column, data.endless_time.
    """
    pieces = [_piece(field, column, title) for field, column in zip(batch.schema, batch.columns, strict=True)]
    if not pieces:
        return ["{}\n"] * batch.num_rows
    between = [each for piece in pieces for each in (pl.lit(", "), piece)][1:]
    return pl.select(pl.concat_str(pl.lit("{"), *between, pl.lit("}\n"))).to_series().to_list()


def _piece(field: pa.Field, column: pa.Array, title: str) -> pl.Series:
    """`"name": value` of every row."""
    head = json.dumps(field.name, ensure_ascii=False)
    simple = pa.types.is_string(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    if simple:
        values = pl.Series("", pl.from_arrow(column))
        written = pl.select(pl.struct(values.alias("")).struct.json_encode()).to_series()  # {"":value}
        return pl.Series("", f"{head}: " + written.str.strip_prefix('{"":').str.strip_suffix("}"))
    read = _FROM_TEXT.get(kind_of_column(field))
    try:
        found = column.to_pylist()
    except (OverflowError, ValueError):
        raise TunesmithError("data.endless_time", source=title, column=field.name) from None
    plain = [
        _plain(read(value) if read is not None and value is not None else value, field.name, title) for value in found
    ]
    return pl.Series("", [f"{head}: {json.dumps(value, ensure_ascii=False, default=str)}" for value in plain])


def _plain(value: object, column: str, title: str) -> object:
    """A value as JSON has it."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise TunesmithError("data.binary_column", source=title, column=column)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and value.is_finite() else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return value
