"""Events told as lines where nothing moves, and as bars in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunesmith.cli import terminal
from tunesmith.cli.manner import choose_manner
from tunesmith.core.events import Events


def emit_a_run(events: Events) -> None:
    events.emit("stage", stage="train")
    tables = {"train": 22, "validation": 5, "test": 5, "instruct-replay": 1016}
    events.emit("rows", **tables, read=1048, made=9, merged=2, dropped=7)
    events.emit("parameters", trainable=10, total=1000)
    for step in range(1, 9):
        events.emit("step", step=step, total_steps=8, loss=1 / step, tokens=100 * step, seconds=1.0 * step)
    events.emit("validation", step=8, best=True, loss=0.5)
    events.emit("alarm", code="train.validation_not_finite", step=8)
    events.emit("alarm", code="no.such_code", detail="x")
    events.emit("note", code="serve.unproven", path="folder")
    events.emit("fit_end", steps=8, tokens=800, seconds=8.0, stopped_early=True, best_step=4)
    events.emit("result", model="tuned", rows=4, json_exact=0.875)
    events.emit("stage_end", stage="train", seconds=75.2)
    events.emit("stage_skipped", stage="ship")
    events.emit("readiness", state="blocked", risks=1, advice=2)
    events.emit("forecast", basis="probe", records=0, seconds=65.0, low=50.0, high=80.0, memory_mb=2048)
    events.emit("forecast_error", seconds=65.0, actual_seconds=70.0)
    events.emit("batch", step=1, reason="start", rows=8, tokens=4096)
    events.emit("batch", step=3, reason="memory", tokens_before=4096, tokens=2048, needed_bytes=10, free_bytes=5)
    events.emit("batch", reason="validation", tokens_before=900, tokens=450, free_bytes=5)
    events.emit("something_new", value=1)


def test_plain_lines_tell_everything_once(capsys: pytest.CaptureFixture[str]) -> None:
    choose_manner([])
    with terminal.Terminal() as listener:
        emit_a_run(Events(None, (listener,)))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = [line.strip() for line in out.splitlines()]
    assert sum(line.startswith("training ") for line in lines) == 4
    assert "training 8/8 loss 0.125, 100 tokens/s" in lines
    for words in (
        "4/6  Training",
        "1048 rows read, 9 made, 2 merged, 7 dropped: 22 to train, 5 to choose the best checkpoint, 5 to test",
        "besides, for a stage alone: instruct-replay 1016",
        "validation at step 8: loss 0.5 (best so far)",
        "done in 1 min 15 s",
        "the tuned model: json_exact 87.5 %",
        "Publishing: done before, kept",
        "! A validation gave no number.",
        "! no.such_code detail=x",
        "forecast for the training: 1 min 5 s (from 50.0 s to 1 min 20 s), 2.0 GiB of memory at most",
        "it was forecast to take 1 min 5 s and took 1 min 10 s",
        "Stopped early: no gain since step 4.",
        "One step takes 8 rows; up to 4,096 tokens at once, fewer where memory is short (batch_size: auto)",
        "Step 3: memory is short, 4,096 tokens at once become 2,048; the step's result stays the same",
        "Validation: 900 tokens at once were refused memory; on with 450",
    ):
        assert words in lines, words
    assert any("manifest" in line for line in lines)


def test_json_keeps_standard_output_clean(capsys: pytest.CaptureFixture[str]) -> None:
    choose_manner(["--json"])
    with terminal.Terminal() as listener:
        emit_a_run(Events(None, (listener,)))
    told = capsys.readouterr()
    choose_manner([])
    assert told.out == "" and told.err == ""


def test_a_terminal_gets_bars_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(terminal, "console", lambda: Console(file=stream, force_terminal=True, width=100))
    choose_manner([])
    with terminal.Terminal() as listener:
        emit_a_run(Events(None, (listener,)))
    text = stream.getvalue()
    assert "\x1b[?25l" in text and text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor comes back"


def test_bars_end_when_a_stage_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(terminal, "console", lambda: Console(file=stream, force_terminal=True, width=100))
    with pytest.raises(ValueError), terminal.Terminal() as listener:
        listener(*_one_step())
        raise ValueError
    assert "\x1b[?25h" in stream.getvalue()


def _one_step() -> tuple[terminal.Event]:
    return (terminal.Event("step", 0.0, {"step": 1, "total_steps": 8, "loss": 1.0}),)
