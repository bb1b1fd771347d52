"""The stream of what happens in a run: each event is a JSON line in `metrics.jsonl` and a call to the listeners.

The terminal, TensorBoard, the job server and the screen are listeners; no room prints.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from tunesmith.core.files import disk_errors, fsync_path, make_folders
from tunesmith.core.secrets import without_secrets

_MANY = frozenset({"step"})
"""Kinds of which there are too many to wait for the disk each time. The next event of another kind, such as the one
that ends a stage, carries them there."""

_SENTENCES = frozenset({"note", "alarm", "progress"})

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
        self._begun = False

    def emit(self, kind: str, **values: Value) -> None:
        """Record one event. Progress events are shown but not stored: they are many and say nothing afterwards."""
        values = {name: without_secrets(value) if isinstance(value, str) else value for name, value in values.items()}
        event = Event(kind, time.time(), values)
        if self._path is not None and kind != "progress":
            line = json.dumps({"kind": kind, "time": round(event.time, 3), **_strict(values)}, ensure_ascii=False)
            self._append(self._path, f"{line}\n".encode(), durable=kind not in _MANY)
        for listener in self._listeners:
            listener(event)

    def _append(self, path: Path, line: bytes, *, durable: bool) -> None:
        # A line that a crash or a full disk cut short must not swallow the one after it.
        goes_on, self._begun = self._begun, False
        with disk_errors(path, lambda: len(line)):
            if not path.exists():
                make_folders(path.parent)
            with path.open("ab+") as stream:
                new = stream.tell() == 0
                stream.write(b"" if goes_on or _ends_whole(stream) else b"\n")
                stream.write(line)
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            if new:
                fsync_path(path.parent)
        self._begun = True


class OfStage:
    """Names the stage in what is told of a fit, so that the figures of several in a row stay apart."""

    def __init__(self, emitter: Emitter, stage: str) -> None:
        self._emitter = emitter
        self._stage = stage

    def emit(self, kind: str, **values: Value) -> None:
        """Record one event. Notes and alarms are sentences of their own and stay as they are."""
        named = values if kind in _SENTENCES else {"stage": self._stage, **values}
        self._emitter.emit(kind, **named)


def _strict(values: Mapping[str, Value]) -> dict[str, Value]:
    """Numbers that JSON does not know (nan, inf) as text: shown for what they are, and readable by any program."""
    odd = {name: str(value) for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)}
    return {**values, **odd}


def _ends_whole(stream: BinaryIO) -> bool:
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - 1))
    return stream.read(1) in (b"", b"\n")


SILENT = Events()
"""Takes events and forgets them."""


def read_events(path: Path, kind: str | None = None) -> list[Event]:
    """Events of a file, of one kind if named. A line cut by a crash is left out."""
    if not path.exists():
        return []
    found: list[Event] = []
    # Split at line feeds alone: a text in JSON may hold other characters that end a line elsewhere.
    for line in path.read_bytes().split(b"\n"):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        event = Event(values.pop("kind"), values.pop("time"), values)
        if kind in (None, event.kind):
            found.append(event)
    return found
