"""The stream of events: stored, handed on, and readable after a crash in the middle of a line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Event, Events, read_events


def test_events_are_stored_and_handed_on(tmp_path: Path) -> None:
    seen: list[Event] = []
    path = tmp_path / "metrics.jsonl"
    events = Events(path, (seen.append,))
    events.emit("step", step=1, loss=0.5, note="早\u2028\x85 line\nend")
    events.emit("progress", done=1)
    events.emit("note", text=None)
    assert [event.kind for event in seen] == ["step", "progress", "note"]
    stored = read_events(path)
    assert [event.kind for event in stored] == ["step", "note"], "progress is not kept"
    assert stored[0].values == {"step": 1, "loss": 0.5, "note": "早\u2028\x85 line\nend"}
    assert abs(stored[0].time - seen[0].time) < 0.001
    assert [event.values["step"] for event in read_events(path, "step")] == [1]
    assert read_events(tmp_path / "none") == []
    SILENT.emit("step")


def test_a_line_cut_by_a_crash_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    Events(path).emit("step", step=1)
    Events(path).emit("note", text="早")
    whole = path.read_bytes()
    for kept in range(whole.index(b"\n") + 2, len(whole)):
        path.write_bytes(whole[:kept])
        again = Events(path)
        again.emit("step", step=2)
        again.emit("step", step=3)
        assert [event.values["step"] for event in read_events(path, "step")] == [1, 2, 3], kept
        assert path.read_bytes().count(b"\n") == 4, "no empty lines"


def test_a_full_disk_has_a_code() -> None:
    if not Path("/dev/full").is_char_device() or not os.access("/dev/full", os.W_OK):
        pytest.skip("needs /dev/full")
    with pytest.raises(TunesmithError, match="disk_f"):
        Events(Path("/dev/full")).emit("step", step=1)
