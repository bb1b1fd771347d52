"""Placeholders given back: what stood in their place, from the values that were sealed with the run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.data.pii.patterns import ALL_TYPES

_PLACEHOLDER = re.compile(rf"<(?:{'|'.join(kind.upper() for kind in ALL_TYPES)})_\d+>")


def restored(content: str, values: Mapping[str, str], path: Path) -> tuple[str, int]:
    """A file's text with values in place of placeholders, and how many places were changed.

    JSON (a document, or one a line) stays JSON: values are escaped there. Errors: data.unknown_placeholders, which
    names a placeholder and never a value.
    """
    found = _PLACEHOLDER.findall(content)
    unknown = sorted({each for each in found if each not in values})
    if unknown:
        raise TunesmithError("data.unknown_placeholders", path=str(path), count=len(unknown), example=unknown[0])
    inside_json = path.suffix.lower() in (".json", ".jsonl", ".ndjson") and _is_json(content)

    def value(match: re.Match[str]) -> str:
        plain = values[match[0]]
        return json.dumps(plain, ensure_ascii=False)[1:-1] if inside_json else plain

    return _PLACEHOLDER.sub(value, content), len(found)


def _is_json(content: str) -> bool:
    """Whether a text is one JSON document, or a document on each line."""
    return _reads([content]) or _reads(line for line in content.splitlines() if line.strip())


def _reads(documents: Iterator[str] | list[str]) -> bool:
    try:
        for each in documents:
            json.loads(each)
    except (ValueError, RecursionError):
        return False
    return True
