"""Tool calls in the model's text: `<tool_call>{...}</tool_call>`, or an answer that is nothing but the JSON."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection

from tunesmith.core.types import ToolCall

_MARKED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def find_tool_calls(text: str, names: Collection[str]) -> tuple[str, tuple[ToolCall, ...]]:
    """Split an answer into what is said and what is called; only functions in `names` count as calls."""
    marked = list(_MARKED.finditer(text))
    if marked:
        calls = [call for match in marked for call in _calls(match[1], names)]
        return (_MARKED.sub("", text).strip(), tuple(calls)) if calls else (text, ())
    calls = _calls(text.strip(), names)
    return ("", tuple(calls)) if calls else (text, ())


def _calls(text: str, names: Collection[str]) -> list[ToolCall]:
    try:
        value = json.loads(text)
        calls = [_call(each, names) for each in (value if isinstance(value, list) else [value])]
    except (ValueError, RecursionError):
        return []
    return [call for call in calls if call is not None] if all(calls) else []


def _call(value: object, names: Collection[str]) -> ToolCall | None:
    """A call of one of these functions, or None. Raises ValueError where half of a character stands in it."""
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str) or name not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    text.encode()
    return ToolCall(name, text, f"call_{uuid.uuid4().hex[:24]}")
