"""What happens in a run, told in the terminal: a heading and a reason for every stage, progress bars, and results.

In a terminal, bars move in place. Anywhere else (a file, a pipe) every line is plain text and a long wait says
something four times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from tunesmith.cli.manner import console, manner, prose
from tunesmith.cli.words import duration, percent, told
from tunesmith.core.calibration import flops_words
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Value
from tunesmith.core.types import SPLITS
from tunesmith.messages import render, say

STAGES = ("data", "plan", "baseline", "train", "evaluate", "ship")
_PARTS = 4
"""Lines that a wait is told in where bars cannot move."""


class Terminal:
    """A listener for events, used as `with Terminal() as listener`."""

    def __init__(self) -> None:
        self._console = console()
        self._live = self._console.is_terminal
        self._silent = manner().as_json and not self._live
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, int] = {}
        self._handlers: Mapping[str, Callable[[Mapping[str, Value]], None]] = {
            "stage": self._stage,
            "stage_end": self._stage_end,
            "stage_skipped": self._stage_skipped,
            "progress": self._progress,
            "step": self._step,
            "validation": self._validation,
            "source": self._source,
            "rows": self._rows,
            "result": self._result,
            "parameters": self._parameters,
            "blocks": self._blocks,
            "resume": self._resume,
            "fit": self._fit,
            "fit_end": self._fit_end,
            "efficiency": self._efficiency,
            "batch": self._batch,
            "frozen": self._frozen,
            "unfrozen": self._unfrozen,
            "merge_base": self._merge_base,
            "shipped": self._shipped,
            "verified": self._verified,
            "readiness": self._readiness,
            "forecast": self._forecast,
            "forecast_error": self._forecast_error,
            "alarm": self._alarm,
            "note": self._note,
            "line": self._line,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bars()

    def __call__(self, event: Event) -> None:
        """Tell an event; kinds that say nothing to a reader are passed over."""
        handler = self._handlers.get(event.kind)
        if handler is not None and not self._silent:
            handler(event.values)

    # ------------------------------------------------------------------------------------------ lines

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style))

    def _detail(self, text: str, style: str = "") -> None:
        self._print(f"    {text}", style)

    def _stage(self, values: Mapping[str, Value]) -> None:
        stage = str(values.get("stage", ""))
        if stage not in STAGES:
            return
        self._end_bars()
        place = f"{STAGES.index(stage) + 1}/{len(STAGES)}"
        self._console.print()
        self._console.print(Text.assemble((f"{place}  {say(f'cli.stage_{stage}')}", "bold cyan")))
        prose(say(f"cli.why_{stage}"), "dim", indent=4)

    def _stage_end(self, values: Mapping[str, Value]) -> None:
        self._end_bars()
        self._detail(say("cli.stage_done", time=duration(_number(values["seconds"]))), "green")

    def _stage_skipped(self, values: Mapping[str, Value]) -> None:
        self._print(say("cli.stage_kept", stage=say(f"cli.stage_{values['stage']}")), "dim")

    def _source(self, values: Mapping[str, Value]) -> None:
        share = percent(_number(values["share"]))
        self._detail(say("cli.source", source=str(values["source"]), rows=_whole(values["rows"]), share=share))

    def _rows(self, values: Mapping[str, Value]) -> None:
        counts = {name: _whole(values.get(name, 0)) for name in SPLITS}
        sums = {name: _whole(values.get(name, 0)) for name in ("read", "made", "merged", "dropped")}
        self._detail(say("cli.rows", **sums, **counts))
        beside = [f"{name} {_whole(count)}" for name, count in values.items() if name not in (*counts, *sums)]
        if beside:
            self._detail(say("cli.rows_beside", tables=", ".join(beside)))

    def _result(self, values: Mapping[str, Value]) -> None:
        metrics = {name: value for name, value in values.items() if isinstance(value, float)}
        figures = ", ".join(f"{name} {percent(value)}" for name, value in metrics.items())
        self._end_bars()
        self._detail(say("cli.result", model=_what(str(values["model"])), figures=figures))

    def _parameters(self, values: Mapping[str, Value]) -> None:
        trainable, total = _whole(values["trainable"]), _whole(values["total"])
        share = percent(trainable / max(total, 1))
        self._detail(say("train.params", trainable=f"{trainable:,}", total=f"{total:,}", share=share))

    def _blocks(self, values: Mapping[str, Value]) -> None:
        fast = _whole(values["fast"])
        self._detail(say("train.blocks_fast", fast=fast) if fast else say("train.blocks_plain"))

    def _resume(self, values: Mapping[str, Value]) -> None:
        self._detail(say("train.resumed", step=_whole(values["step"])))

    def _validation(self, values: Mapping[str, Value]) -> None:
        figures = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
        mark = f" {say('cli.best')}" if values.get("best") else ""
        self._detail(say("cli.validation", step=_whole(values["step"]), figures=", ".join(figures)) + mark)

    def _fit(self, values: Mapping[str, Value]) -> None:
        """Which stage of how many begins, where there are several."""
        code = "cli.fit_stage_kept" if values["done"] else "cli.fit_stage"
        self._end_bars()
        place, of = _whole(values["place"]), _whole(values["of"])
        self._detail(say(code, stage=str(values["stage"]), place=place, of=of), "bold")

    def _fit_end(self, values: Mapping[str, Value]) -> None:
        seconds = _number(values["seconds"])
        rate = round(_number(values["tokens"]) / max(seconds, 1e-9))
        self._end_bars()
        self._detail(say("cli.fit_end", steps=_whole(values["steps"]), time=duration(seconds), rate=f"{rate:,}"))
        if values.get("stopped_early"):
            self._detail(say("cli.stopped_early", step=_whole(values.get("best_step") or 0)))

    def _efficiency(self, values: Mapping[str, Value]) -> None:
        figures = {
            "rate": f"{_number(values['tokens_per_second']):,.0f}",
            "useful": f"{_number(values['useful_utilisation']):.2f}",
            "kernel": f"{_number(values['kernel_efficiency']):.2f}",
            "waste": f"{_number(values['waste']):.2f}",
            "peak": flops_words(_number(values["peak_flops"])),
            "dtype": str(values["dtype"]),
        }
        basis = say("train.peak_calibrated" if values["calibrated"] else "train.peak_short")
        self._detail(say("train.speed", **figures, basis=basis))
        if _number(values["kernel_efficiency"]) > 1:
            self._detail(f"! {say('train.peak_too_low')}", "yellow")
        if _whole(values.get("shared_tokens", 0)):
            self._detail(say("train.speed_shared", tokens=f"{_whole(values['shared_tokens']):,}"))

    def _batch(self, values: Mapping[str, Value]) -> None:
        """How many tokens `batch_size: auto` computes at once, and every time that memory changes it."""
        reason = str(values["reason"])
        names = {"rows": "rows", "step": "step", "tokens_before": "before", "tokens": "tokens"}
        facts = {name: f"{_whole(values[key]):,}" for key, name in names.items() if values.get(key) is not None}
        self._detail(say(f"train.batch_{reason}", **facts), "" if reason in ("start", "room") else "yellow")

    def _frozen(self, values: Mapping[str, Value]) -> None:
        if not values["unchanged"]:
            self._detail(say("cli.frozen_changed"), "red")

    def _unfrozen(self, values: Mapping[str, Value]) -> None:
        self._detail(say("cli.unfrozen", step=_whole(values["step"]), left=_whole(values["turns_left"])))

    def _merge_base(self, values: Mapping[str, Value]) -> None:
        losses = {name: f"{_number(values[f'loss_{name}']):.4f}" for name in ("original", "dequantized")}
        self._detail(say(f"cli.merged_{values['chosen']}", **losses))

    def _shipped(self, values: Mapping[str, Value]) -> None:
        self._end_bars()
        size = f"{_number(values['size_bytes']) / 2**20:,.0f} MiB"
        self._detail(say("cli.shipped", format=str(values["format"]), size=size, path=str(values["path"])))

    def _verified(self, values: Mapping[str, Value]) -> None:
        self._detail(say("cli.verified", folder=str(values["folder"])))

    def _readiness(self, values: Mapping[str, Value]) -> None:
        self._detail(told(f"plan.state_{values['state']}", {}))
        if _whole(values.get("risks", 0)) + _whole(values.get("advice", 0)):
            risks, advice = _whole(values.get("risks", 0)), _whole(values.get("advice", 0))
            self._detail(say("cli.readiness", risks=risks, advice=advice))

    def _forecast(self, values: Mapping[str, Value]) -> None:
        times = {name: duration(_number(values[name])) for name in ("seconds", "low", "high")}
        self._detail(say("cli.forecast", **times, memory=_gigabytes(values["memory_mb"])))

    def _forecast_error(self, values: Mapping[str, Value]) -> None:
        expected, actual = (duration(_number(values[name])) for name in ("seconds", "actual_seconds"))
        self._detail(say("cli.forecast_error", expected=expected, actual=actual))

    def _alarm(self, values: Mapping[str, Value]) -> None:
        self._detail(f"! {_sentence(values)}", "yellow")

    def _note(self, values: Mapping[str, Value]) -> None:
        self._detail(_sentence(values))

    def _line(self, values: Mapping[str, Value]) -> None:
        self._detail(str(values.get("text", "")))

    # ------------------------------------------------------------------------------------------ bars

    def _progress(self, values: Mapping[str, Value]) -> None:
        what = str(values["what"])
        self._move(what, _what(what), _whole(values["done"]), _whole(values["total"]), "")

    def _step(self, values: Mapping[str, Value]) -> None:
        seconds = _number(values.get("seconds", 0.0))
        rate = round(_number(values.get("tokens", 0)) / seconds) if seconds else 0
        figures = say("cli.step", loss=f"{_number(values.get('loss', 0.0)):.3f}", rate=f"{rate:,}")
        self._move("train", say("cli.training"), _whole(values["step"]), _whole(values["total_steps"]), figures)

    def _move(self, key: str, name: str, done: int, total: int, figures: str) -> None:
        if self._live:
            bars = self._bars or self._start_bars()
            if key not in self._tasks:
                self._tasks[key] = bars.add_task(name, total=total, figures=figures)
            bars.update(self._tasks[key], completed=done, figures=figures)
            if done >= total:
                bars.remove_task(self._tasks.pop(key))
            return
        part = done * _PARTS // max(total, 1)
        if self._told.get(key) != part and part:
            self._detail(f"{name} {done}/{total} {figures}".rstrip())
        self._told[key] = part if done < total else 0

    def _start_bars(self) -> Progress:
        self._bars = Progress(
            TextColumn("    {task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bars.start()
        return self._bars

    def _end_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks.clear()


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _whole(value: Value) -> int:
    return int(_number(value))


def _gigabytes(megabytes: Value) -> str:
    return f"{_number(megabytes) / 1024:.1f} GiB"


def _what(what: str) -> str:
    """Words for the name of a wait: a model that answers, or a format in the parity gate."""
    with suppress(KeyError):
        return say(f"cli.what_{what}")
    prefix, _, rest = what.partition(".")
    return say("cli.what_check", what=rest) if prefix == "ship" else what


def _sentence(values: Mapping[str, Value]) -> str:
    """The sentence of a note or an alarm, which name it by its code; the code itself where it has none."""
    code = str(values.get("code", ""))
    facts = {name: value for name, value in values.items() if name != "code" and value is not None}
    with suppress(TunesmithError, KeyError):
        return render(TunesmithError(code, **facts)).cause
    return told(code, facts)
