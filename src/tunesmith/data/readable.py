"""A stored row as people and other programs read it: only what it holds, under the names of the layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tunesmith.data.table import TURN_COLUMNS

_OPTIONAL = ("name", "tool_call_id")


def readable(row: Mapping[str, object]) -> dict[str, object]:
    """What a row of the table says, without its empty columns."""
    found: dict[str, object] = {}
    for name in TURN_COLUMNS:
        turns = row[name]
        if isinstance(turns, Sequence) and turns:
            found[name] = [_turn(turn) for turn in turns]
    for name in ("tools", "text", "tokens", "labels"):
        if row[name]:
            found[name] = row[name]
    if row["label"] is not None:
        found["label"] = row["label"]
    for name in ("label_weights", "media", "boxes"):
        if row[name]:
            found[name] = row[name]
    return found


def _turn(stored: Mapping[str, object]) -> dict[str, object]:
    turn: dict[str, object] = {"role": stored["role"], "content": stored["content"]}
    if stored["weight"] is not None:
        turn["weight"] = stored["weight"]
    if stored["tool_calls"]:
        turn["tool_calls"] = json.loads(str(stored["tool_calls"]))
    return turn | {name: stored[name] for name in _OPTIONAL if stored[name]}
