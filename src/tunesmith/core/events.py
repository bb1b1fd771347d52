"""The stream of what happens in a run: each event is a JSON line in `metrics.jsonl` and a call to the listeners.

The terminal, TensorBoard, the job server and the screen are listeners; no room prints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunesmith.core.files import disk_errors

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Event:
    """What happened: `kind` names it (`stage`, `progress`, `step`, `validation`, `note`, `alarm` ...)."""

    kind: str
    time: float
    values: Mapping[str, Value]


Listener = Callable[[Event], None]


class Emitter(Protocol):
    """Anything that takes events."""

    def emit(self, kind: str, **values: Value) -> None:
        """Record one event."""


class Events:
    """Appends events to a file (when there is one) and hands them to the listeners."""

    def __init__(self, path: Path | None = None, listeners: tuple[Listener, ...] = ()) -> None:
        self._path = path
        self._listeners = listeners

    def emit(self, kind: str, **values: Value) -> None:
        """Record one event. Progress events are shown but not stored: they are many and say nothing afterwards."""
        event = Event(kind, time.time(), values)
        if self._path is not None and kind != "progress":
            line = json.dumps({"kind": kind, "time": round(event.time, 3), **values}, ensure_ascii=False)
            with disk_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        for listener in self._listeners:
            listener(event)


SILENT = Events()
"""Takes events and forgets them."""


def read_events(path: Path, kind: str | None = None) -> list[Event]:
    """Events of a file, of one kind if named. A last line cut by a crash is left out."""
    if not path.exists():
        return []
    found: list[Event] = []
    for line in path.read_text("utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        event = Event(values.pop("kind"), values.pop("time"), values)
        if kind in (None, event.kind):
            found.append(event)
    return found
