"""What a database said, without what nobody may read: passwords, and values of rows, which some errors repeat."""

from __future__ import annotations

import re

from sqlalchemy import URL

from tunesmith.core.secrets import HIDDEN, without_secrets
from tunesmith.data.collect.statement import Dialect

_ABOUT_THE_QUERY = {
    "postgresql": re.compile(r"(?:08|0A|25|28|3D|42|53|57)"),
    "mysql": re.compile(r"(?:1044|1045|1049|1054|1064|1142|1146|1305|1370|1792|20\d\d)$"),
}
"""Classes of SQLSTATE, or numbers, of errors about the words of a query, rights, and the way to the server."""
_DUCKDB_SAFE = frozenset(
    {"CatalogException", "ParserException", "BinderException", "PermissionException", "IOException"}
)


_NO_WAY = "Failed to connect"


def reason_of(error: Exception, dialect: Dialect, url: URL) -> str:
    """The first line of what was said where that is about the query or the way to the server; else only its number."""
    said = getattr(error, "orig", None) or error
    kind = type(said).__name__
    line = _scrubbed((str(said).strip() or kind).splitlines()[0], url)
    if dialect == "sqlite":
        return line
    if dialect == "duckdb":
        return line if kind in _DUCKDB_SAFE else kind
    if dialect == "postgresql":
        code = str(getattr(said, "sqlstate", None) or "")
        if not code and _NO_WAY not in line:  # the driver's own words, which may repeat a value
            return kind
    else:
        arguments: tuple[object, ...] = getattr(said, "args", ())
        code = str(arguments[0]) if arguments else ""
        line = _scrubbed(str(arguments[1]).splitlines()[0], url) if len(arguments) > 1 else line
    safe = not code or _ABOUT_THE_QUERY[dialect].match(code) is not None
    return line if safe else f"{kind} {code}"


def _scrubbed(line: str, url: URL) -> str:
    hidden = [value for name, value in url.query.items() if "pass" in name or "secret" in name or "token" in name]
    for secret in (url.render_as_string(hide_password=False), url.password, *hidden):
        if secret:
            line = line.replace(str(secret), HIDDEN)
    return without_secrets(line)
