"""Opening the database that a URL names."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from tunesmith.core.errors import TunesmithError
from tunesmith.store.schema import SCHEMA_VERSION, metadata, version

_WAIT_SECONDS = 30


def sqlite_url(path: Path) -> str:
    """URL of an SQLite file."""
    return f"sqlite:///{path}"


def open_database(url: str) -> Engine:
    """Connect, make the tables that are missing, and check the schema's version. The engine is safe under threads.

    Args:
        url: `sqlite:///file` or `postgresql+psycopg://user@host/database`.

    Errors: store.bad_url, store.driver_missing, store.cannot_open, store.other_schema.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise TunesmithError("store.bad_url", reason="it does not read like a database URL") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise TunesmithError("store.bad_url", reason=f"{parsed.get_backend_name()} is not supported")
    shown = parsed.render_as_string(hide_password=True)
    sqlite = parsed.get_backend_name() == "sqlite"
    try:
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        options = {"timeout": _WAIT_SECONDS} if sqlite else {}
        engine = create_engine(parsed, connect_args=options, pool_pre_ping=not sqlite)
        if sqlite:
            event.listen(engine, "connect", _set_up_sqlite)
        metadata.create_all(engine)
        with engine.begin() as connection:
            found = _version_of(connection)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise TunesmithError("store.driver_missing", url=shown, reason=str(error)) from error
    except (SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise TunesmithError("store.cannot_open", url=shown, reason=reason) from error
    if found != SCHEMA_VERSION:
        engine.dispose()
        raise TunesmithError("store.other_schema", url=shown, found=found, known=SCHEMA_VERSION)
    return engine


def _set_up_sqlite(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    """Readers do not wait for a writer, and what was answered with "stored" survives a loss of power."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _version_of(connection: Connection) -> int:
    found = connection.execute(select(version.c.version)).scalar()
    if found is None:
        try:
            with connection.begin_nested():
                connection.execute(insert(version).values(version=SCHEMA_VERSION))
        except IntegrityError:  # another process made the tables at the same moment
            pass
        return SCHEMA_VERSION
    return int(found)
