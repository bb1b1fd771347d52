"""The rows of a query, in batches, over a session that can only read.

PostgreSQL comes by ADBC in batches of columns, MySQL by PyMySQL through SQLAlchemy with a cursor on the server, so that
a table of any size passes through the memory of one batch; SQLite likewise from its file; DuckDB by its own library.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast
from urllib.parse import quote

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import user_path
from tunesmith.data.collect.lines import lines_of_columns, lines_of_rows
from tunesmith.data.collect.postgresql import LIBRARY, ask_postgresql
from tunesmith.data.collect.reasons import reason_of
from tunesmith.data.collect.statement import Dialect, require_reading
from tunesmith.data.formats.extras import needed
from tunesmith.recipe.specs.sources import SourceSpec

BATCH_ROWS = 5_000
_DRIVERS: Mapping[str, tuple[str, str, str]] = {
    "postgresql": ("postgresql+psycopg", LIBRARY, "postgresql"),
    "mysql": ("mysql+pymysql", "pymysql", "mysql"),
    "sqlite": ("sqlite", "sqlite3", ""),
    "duckdb": ("duckdb", "duckdb", "duckdb"),
}
"""By the name of the database: what SQLAlchemy calls it, the library, and our extra that brings it. Lineages hold a
hash of the first, which is why PostgreSQL's is that of an older driver."""
_READ_ONLY = {
    "mysql": "SET SESSION TRANSACTION READ ONLY",
    "sqlite": "PRAGMA query_only = ON",
}
_DUCKDB_SETTINGS = {"enable_external_access": "false", "autoinstall_known_extensions": "false"}
_DUCKDB_FILE = ".duckdb"


@dataclass(frozen=True)
class Answer:
    """Names of the columns, and the rows as JSON lines, a batch at a time."""

    columns: tuple[str, ...]
    batches: Iterator[list[str]]


@contextmanager
def answer_to(source: SourceSpec, folder: Path) -> Iterator[Answer]:
    """Send the query of a source and yield what comes back.

    Errors: data.no_database_url, data.bad_database_url, data.extra_missing, data.query_writes, data.query_unclear,
    data.query_failed, data.binary_column, data.endless_time. No error holds the URL, a password or a row.
    """
    url, query = database_url(source, folder), source.query or ""
    dialect = cast(Dialect, url.get_backend_name())
    _, library, extra = _DRIVERS[dialect]
    driver = needed(library, extra, dialect)
    require_reading(query, dialect, source.title)
    try:
        if dialect == "postgresql":
            with ask_postgresql(url, query) as reader:
                columns = tuple(str(name) for name in reader.schema.names)
                yield Answer(columns, (lines_of_columns(batch, source.title) for batch in reader))
        else:
            with (
                _ask_duckdb(driver, url, query) if dialect == "duckdb" else _ask(url, dialect, query) as (columns, rows)
            ):
                yield Answer(columns, (lines_of_rows(columns, batch, source.title) for batch in rows))
    except TunesmithError:
        raise
    except _errors_of(driver) as error:
        reason = reason_of(error, dialect, url)
        raise TunesmithError("data.query_failed", source=source.title, reason=reason) from None  # it may hold rows


def database_url(source: SourceSpec, folder: Path) -> URL:
    """Where a query runs, read from the environment where the recipe names a variable.

    Errors: data.no_database_url, data.bad_database_url.
    """
    stated = source.database or ""
    if not stated.startswith("env:"):
        path = user_path(stated, folder).resolve()
        if not path.is_file():
            raise TunesmithError("data.missing_path", path=str(path))
        return URL.create("duckdb" if path.suffix == _DUCKDB_FILE else "sqlite", database=str(path))
    name = stated.removeprefix("env:")
    text = os.environ.get(name, "")
    if not text:
        raise TunesmithError("data.no_database_url", variable=name)
    try:
        url = make_url(text)
        driver = _DRIVERS[url.get_backend_name().replace("mariadb", "mysql")][0]
    except (ArgumentError, NoSuchModuleError, ValueError, KeyError):
        known = ", ".join(_DRIVERS)
        raise TunesmithError("data.bad_database_url", variable=name, known=known) from None  # the text holds a password
    return url.set(drivername=driver)


def database_place(source: SourceSpec, folder: Path) -> str | None:
    """A hash that tells one database from another, without the password; None where its variable is not set."""
    try:
        url = database_url(source, folder).set(password=None)
    except TunesmithError:
        return None
    return hashlib.sha256(url.render_as_string().encode()).hexdigest()


def _errors_of(driver: ModuleType) -> tuple[type[Exception], ...]:
    """What a database library raises, by the name that all of them share, and SQLAlchemy in its place."""
    return SQLAlchemyError, cast(type[Exception], driver.Error)


_Rows = tuple[tuple[str, ...], Iterator[Sequence[Sequence[object]]]]
"""Names of the columns, and batches of rows."""


@contextmanager
def _ask(url: URL, dialect: Dialect, query: str) -> Iterator[_Rows]:
    engine = _read_only_engine(url, dialect)
    try:
        with engine.connect() as connection:
            streamed = connection.execution_options(stream_results=True, max_row_buffer=BATCH_ROWS, no_parameters=True)
            result = streamed.exec_driver_sql(query)
            try:
                yield tuple(result.keys()), result.partitions(BATCH_ROWS)
            finally:
                result.close()  # MySQL sends all that is left before it hears another word
    finally:
        engine.dispose()


def _read_only_engine(url: URL, dialect: Dialect) -> Engine:
    if dialect == "sqlite":
        place = quote(str(Path(url.database or "").resolve()))
        url = url.set(database=f"file:{place}", query={"mode": "ro", "uri": "true"})
    engine = create_engine(url)

    def close_for_writing(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute(_READ_ONLY[dialect])
        cursor.close()
        connection.commit()

    event.listen(engine, "connect", close_for_writing)
    return engine


@contextmanager
def _ask_duckdb(driver: ModuleType, url: URL, query: str) -> Iterator[_Rows]:
    connection = driver.connect(url.database or "", read_only=True, config=_DUCKDB_SETTINGS)
    try:
        found = connection.execute(query)
        batches = iter(lambda: cast(Sequence[Sequence[object]], found.fetchmany(BATCH_ROWS)), [])
        yield tuple(str(column[0]) for column in found.description), batches
    finally:
        connection.close()
