"""Whether a query only reads, judged before it is sent: the first of two locks, for the session is read-only as well.

Words in quotes and comments say nothing of what a statement does, so that they are passed over as the database at hand
does it. Where that could be read in two ways the query is refused.
"""

from __future__ import annotations

import re
from typing import Literal

from tunesmith.core.errors import TunesmithError

Dialect = Literal["postgresql", "mysql", "sqlite", "duckdb"]

_FIRST = frozenset({"select", "with", "values", "table", "from"})
"""Words that a statement which reads begins with; `from` is DuckDB's own."""
_NEVER = frozenset(
    "insert update delete merge replace into create drop alter truncate grant revoke copy call do execute prepare set"
    " lock vacuum analyze attach detach pragma install load export import handler rename begin commit rollback".split()
)
"""Words that no reading statement holds outside of quotes, but for functions of the same name."""
_FUNCTIONS = frozenset({"replace", "insert", "truncate", "left", "set"})
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
_SKIPPED = {
    "postgresql": rf"--[^\n]*|/\*.*?\*/|{_QUOTED}|\$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$",
    "mysql": rf"--(?=\s|$)[^\n]*|/\*(?![!M]).*?\*/|{_QUOTED}|`[^`]*`",
    "sqlite": rf"--[^\n]*|/\*.*?\*/|{_QUOTED}|`[^`]*`|\[[^\]]*\]",
    "duckdb": rf"--[^\n]*|/\*.*?\*/|{_QUOTED}|\$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$",
}
_UNCLEAR = {
    "postgresql": re.compile(r"\\'|/\*(?:(?!\*/).)*/\*", re.DOTALL),
    "mysql": re.compile(r"\\['\"]|#|--(?=\S)|/\*[!M]"),
    "sqlite": re.compile(r"(?!)"),
    "duckdb": re.compile(r"\\'|/\*(?:(?!\*/).)*/\*", re.DOTALL),
}
"""Escaped quotes, comments within comments and comments that are run: what is text and what is not depends on settings
of the server, on its version, or on who reads."""
_WORD = re.compile(r"(?P<word>[A-Za-z_]\w*)(?P<call>\s*\()?")


def require_reading(query: str, dialect: Dialect, source: str) -> None:
    """Errors: data.query_writes (the word that would write), data.query_unclear."""
    if _UNCLEAR[dialect].search(query):
        raise TunesmithError("data.query_unclear", source=source)
    bare = re.sub(_SKIPPED[dialect], " '' ", query, flags=re.DOTALL).strip().removesuffix(";")
    if ";" in bare:
        raise TunesmithError("data.query_writes", source=source, word=";")
    if bare.count("'") % 2 or '"' in bare or "/*" in bare:  # a quote or a comment that does not end
        raise TunesmithError("data.query_unclear", source=source)
    words = [(found["word"].lower(), found["call"] is not None) for found in _WORD.finditer(bare)]
    first = words[0][0] if words and re.match(r"[\s(]*[A-Za-z_]", bare) else ""
    if first not in _FIRST:
        raise TunesmithError("data.query_writes", source=source, word=first.upper() or bare[:1])
    for word, is_call in words:
        if word in _NEVER and not (is_call and word in _FUNCTIONS):
            raise TunesmithError("data.query_writes", source=source, word=word.upper())
