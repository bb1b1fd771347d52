"""Rows of PostgreSQL by ADBC: the server sends them as one binary stream (COPY), which arrives in batches of columns.

Types that the driver would change without a word are turned on the server: arrays and records to JSON (it flattens
arrays of several dimensions), money, intervals, addresses, ranges and the like to their words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast
from urllib.parse import quote

import pyarrow as pa
from sqlalchemy import URL

from tunesmith.data.formats.extras import needed

LIBRARY = "adbc_driver_postgresql.dbapi"
_READER = "adbc_driver_manager._reader"
"""The library's reader that keeps the number of an error which comes between rows; pyarrow's own loses it."""
_BATCH = {"adbc.postgresql.batch_size_hint_bytes": str(2**20)}
_READ_ONLY = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
_FAITHFUL = frozenset(
    "bool int2 int4 int8 float4 float8 numeric json jsonb uuid date time timestamp timestamptz bytea".split()
)
_NUMBERS = frozenset({"oid", "xid", "cid"})
"""Numbers without a sign, which the driver reads with one."""


@contextmanager
def ask_postgresql(url: URL, query: str) -> Iterator[pa.RecordBatchReader]:
    """Send a query that reads, and yield its rows in batches of about a megabyte.

    Raises the library's `Error`, also while batches are read.
    """
    driver, reader = needed(LIBRARY, "postgresql", "postgresql"), needed(_READER, "postgresql", "postgresql")
    with driver.connect(address_of(url)) as connection, connection.cursor() as cursor:
        cursor.execute(_READ_ONLY)
        connection.commit()
        cursor.adbc_statement.set_options(**_BATCH)
        open_query = f"{query.strip().removesuffix(';')}\n"  # a comment at its end must not swallow what follows
        cursor.execute(_faithful(cursor.adbc_execute_schema(open_query), open_query))
        stream = cursor.fetch_arrow()
        yield cast(pa.RecordBatchReader, reader.AdbcRecordBatchReader._import_from_c(stream.address))


def address_of(url: URL) -> str:
    """The URL as PostgreSQL's own library reads it, which takes a + for a plus."""
    user = quote(url.username or "", safe="")
    password = f":{quote(str(url.password), safe='')}" if url.password else ""
    host = f"[{url.host}]" if ":" in (url.host or "") else quote(url.host or "", safe=",")
    port = f":{url.port}" if url.port else ""
    settings = [
        (name, each) for name, value in url.query.items() for each in ([value] if isinstance(value, str) else value)
    ]
    asked = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in settings)
    at = "@" if user else ""
    return f"postgresql://{user}{password}{at}{host}{port}/{quote(url.database or '', safe='')}" + (
        asked and f"?{asked}"
    )


def kind_of_column(field: pa.Field) -> str:
    """PostgreSQL's name of a column's type."""
    facts = cast(Mapping[bytes, bytes], field.metadata or {})
    return facts.get(b"POSTGRESQL:type", b"").decode()


def _faithful(schema: pa.Schema, query: str) -> str:
    """The query, or one around it that turns what would not arrive as it is."""
    names = [f"c{number}" for number in range(len(schema))]
    forms = [_form(field, name) for field, name in zip(schema, names, strict=True)]
    if forms == names:
        return query
    titles = ['"' + str(field.name).replace('"', '""') + '"' for field in schema]
    chosen = ", ".join(f"{form} AS {title}" for form, title in zip(forms, titles, strict=True))
    return f"SELECT {chosen} FROM ({query}) AS found({', '.join(names)})"


def _form(field: pa.Field, name: str) -> str:
    kind = kind_of_column(field)
    if kind in _FAITHFUL or pa.types.is_string(field.type):
        return name
    if pa.types.is_nested(field.type) or kind == "record":
        return f"to_json({name})"
    words = f"to_json({name}) #>> '{{}}'"  # as they are shown: a cast to text writes 10.0.0.1 as 10.0.0.1/32
    return f"{name}::text::bigint" if kind in _NUMBERS else words
