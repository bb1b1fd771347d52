"""JSON in which a key stands twice in one object. JSON says nothing of which one counts, so no row may hold any."""

from __future__ import annotations

import json


class DoubledKeys(dict[str, object]):
    """Such an object; `pairs` are its keys and values as they stand."""

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def object_of(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object as JSON is parsed, marked where a key stands twice: `json.loads(text, object_pairs_hook=object_of)`."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else DoubledKeys(pairs)


def has_doubled_keys(value: object) -> bool:
    """Whether a parsed value holds such an object, however deep. Raises RecursionError."""
    if isinstance(value, dict):
        return isinstance(value, DoubledKeys) or any(map(has_doubled_keys, value.values()))
    return isinstance(value, list) and any(map(has_doubled_keys, value))


def spelled(value: object) -> str:
    """JSON of a parsed value, with keys that stand twice standing twice. Raises RecursionError."""
    if isinstance(value, dict):
        pairs = value.pairs if isinstance(value, DoubledKeys) else value.items()
        return "{" + ", ".join(f"{json.dumps(key)}: {spelled(each)}" for key, each in pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spelled, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
