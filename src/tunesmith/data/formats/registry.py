"""`dataset_info.json` beside a file: LLaMA-Factory's register of layouts, honoured as it stands there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import RowKind
from tunesmith.data.formats.encoding import decode
from tunesmith.data.formats.turns import USUAL_KEYS, TurnKeys
from tunesmith.recipe.identity import REGISTER
from tunesmith.recipe.specs.data import Layout

# What the register calls a column, and what the layouts here call it.
_COLUMNS = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "history": "history",
    "messages": "conversations",
    "system": "system",
    "tools": "tools",
    "chosen": "chosen",
    "rejected": "rejected",
    "kto_tag": "kto_tag",
}
_ALPACA_DEFAULTS = {"prompt": "instruction", "query": "input", "response": "output"}
_SHAREGPT_DEFAULTS = {"messages": "conversations"}
_OPTIONAL = frozenset({"query"})
_TAGS = {
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "function_call"),
    "system_tag": ("system", "system"),
}
_ENTRY_KEYS = frozenset({"file_name", "formatting", "ranking", "columns", "tags", "split", "subset", "num_samples"})


@dataclass(frozen=True)
class Registered:
    """How the register says that a file is laid out. `columns` maps our names to the file's."""

    layout: Layout
    columns: Mapping[str, str]
    needed: frozenset[str]
    """Names of the file that the entry states and that must be there."""
    keys: TurnKeys


def find_entry(path: Path, wanted: RowKind) -> Registered | None:
    """The entry of a file in the register beside it; None when there is no register or no entry.

    Errors: data.registry_wrong (the entry cannot be right; says why).
    """
    register = path.parent / REGISTER
    if not register.is_file():
        return None
    try:
        entries = json.loads(decode(register.read_bytes(), register).text)
    except (ValueError, RecursionError) as error:
        raise _wrong(register, "-", "JSON") from error
    if not isinstance(entries, dict):
        return None
    for name, entry in entries.items():
        if isinstance(entry, dict) and _names_file(entry.get("file_name"), path):
            return _read_entry(register, str(name), entry, wanted)
    return None


def _names_file(stated: object, path: Path) -> bool:
    return isinstance(stated, str) and (path.parent / stated).resolve() == path.resolve()


def _wrong(register: Path, entry: str, what: str) -> TunesmithError:
    return TunesmithError("data.registry_wrong", path=str(register), entry=entry, what=what)


def _read_entry(register: Path, name: str, entry: dict[str, object], wanted: RowKind) -> Registered:
    unknown = sorted(set(entry) - _ENTRY_KEYS)
    if unknown:
        raise _wrong(register, name, unknown[0])
    formatting, ranking = entry.get("formatting", "alpaca"), entry.get("ranking", False)
    if formatting not in ("alpaca", "sharegpt"):
        raise _wrong(register, name, "formatting")
    if not isinstance(ranking, bool):
        raise _wrong(register, name, "ranking")
    stated = _strings(register, name, entry, "columns", frozenset(_COLUMNS))
    tags = _strings(register, name, entry, "tags", frozenset({"role_tag", "content_tag", *_TAGS}))
    if ranking and not {"chosen", "rejected"} <= set(stated):
        raise _wrong(register, name, "columns.chosen, columns.rejected")
    if wanted == "text" and "messages" not in stated:
        column = stated.get("prompt", "text")
        return Registered("text", {"text": column}, frozenset({column}), USUAL_KEYS)
    defaults = _ALPACA_DEFAULTS if formatting == "alpaca" else _SHAREGPT_DEFAULTS
    columns = {_COLUMNS[key]: column for key, column in {**defaults, **stated}.items()}
    if ranking or "kto_tag" in stated:
        layout: Layout = "preference" if ranking else "kto"
    else:
        layout = "alpaca" if formatting == "alpaca" else "sharegpt"
    optional = _OPTIONAL | ({"response"} if ranking else set())
    unstated = {column for key, column in defaults.items() if key not in stated and key not in optional}
    needed = frozenset(stated.values()) | unstated
    return Registered(layout, columns, needed, _keys(tags) if formatting == "sharegpt" else USUAL_KEYS)


def _strings(register: Path, name: str, entry: dict[str, object], part: str, known: frozenset[str]) -> dict[str, str]:
    value = entry.get(part) or {}
    if not isinstance(value, dict):
        raise _wrong(register, name, part)
    for key, text in value.items():
        if key not in known or not isinstance(text, str):
            raise _wrong(register, name, f"{part}.{key}")
    return {str(key): str(text) for key, text in value.items()}


def _keys(tags: Mapping[str, str]) -> TurnKeys:
    names = {tags.get(tag, usual): meaning for tag, (usual, meaning) in _TAGS.items()}
    return TurnKeys((tags.get("role_tag", "from"),), (tags.get("content_tag", "value"),), names)
