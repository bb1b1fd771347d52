"""Memory, time and money of a training before it starts, and what became of earlier forecasts.

Two grounds: the formulas of `plan/sizes.py` divided by the machine's peak, or a probe of a few real steps on this
machine. Both are corrected by the median of actual over predicted in the recorded runs of the same kind, and the
forecast says how many those were.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from tunesmith.core.files import disk_errors
from tunesmith.models.catalog import cache_folder
from tunesmith.plan.sizes import (
    ModelSize,
    beginning_flops,
    flops_per_token,
    forward_flops_per_token,
    memory_parts,
    places_before,
    trained_parameters,
)
from tunesmith.recipe.specs.adapt import AdaptSpec
from tunesmith.recipe.specs.train import TrainSpec
from tunesmith.train.budget import SPARE, largest_fitting, most_at_once

Basis = Literal["formula", "probe"]

RECORDS = "forecasts.jsonl"
ASSUMED_UTILISATION = 0.25
"""Share of the GEMM peak that a run makes use of, where no run and no probe has told: 0.2 to 0.45 were measured on
CPUs with this loop (docs/dev/log.md). The range of such a forecast is therefore a factor of two either way."""
PROCESS_BYTES = 600_000_000
"""Interpreter, libraries and buffers of one process, which no formula of the model knows."""
_SPREAD: Mapping[Basis, float] = {"formula": 2.0, "probe": 1.25}
_MEMORY_SPREAD: Mapping[Basis, float] = {"formula": 1.4, "probe": 1.1}
_ENOUGH_RECORDS = 3
_REMEMBERED = 200
"""Newest records that count: the machine and this program change."""


@dataclass(frozen=True)
class Workload:
    """What is trained on. Lengths are in tokens; `seen_length` is sum of squares over sum of the documents' lengths.

    `tokens` are those that are computed: a beginning that all rows share stands once in a micro-batch.
    `tokens_at_once` are those of the largest micro-batch; `held_bytes` stand beside the model all the time.
    `reads_ahead` are forward passes that every step takes besides; `measured_tokens` are read once before the first.
    """

    rows: int
    tokens: int
    seen_length: float
    loss_share: float
    tokens_at_once: int
    validation_tokens: int = 0
    held_bytes: int = 0
    reads_ahead: int = 0
    measured_tokens: int = 0


@dataclass(frozen=True)
class ProbeResult:
    """A few real steps on this machine: seconds for a token forward and backward, most memory held in bytes.

    `peak_bytes` is None where the process had held more before, so that nothing can be told from it.
    """

    seconds_per_token: float
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Machine:
    """Where it will run. `peak_flops` is the calibrated best matrix product, FLOP/s; memory is what is free, bytes."""

    device: str
    dtype: str
    peak_flops: float
    memory_bytes: int
    cost_per_hour: float = 0.0


@dataclass(frozen=True)
class Range:
    """An estimate and the range it should fall into."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """What a training will take. `basis` and `records` say what it stands on; the uncorrected values are for the
    record of this run, so that corrections never pile up. `seconds` is with validation and what is measured before;
    `step_seconds` and `uncorrected_seconds` are of the optimizer steps alone, which is what a fit measures.
    `rows_per_step` decide the update; `tokens_at_once` are what `batch_size: auto` begins with, None where the recipe
    states a number."""

    kind: str
    basis: Basis
    records: int
    steps: int
    rows_per_step: int
    tokens_at_once: int | None
    tokens: int
    flops: float
    trained_parameters: int
    seconds: Range
    peak_bytes: Range
    hours: float
    money: float | None
    memory_parts: Mapping[str, int]
    step_seconds: float
    uncorrected_seconds: float
    uncorrected_bytes: float


@dataclass(frozen=True)
class ForecastRecord:
    """A forecast and what really happened; one line of forecasts.jsonl. Bytes are None where nobody could tell."""

    kind: str
    basis: Basis
    uncorrected_seconds: float
    actual_seconds: float
    uncorrected_bytes: float
    actual_bytes: float | None
    predicted_seconds: float
    predicted_bytes: float


def workload(
    lengths: Sequence[int],
    loss_tokens: int,
    validation_tokens: int,
    train: TrainSpec,
    shared: int = 0,
    device: str = "cpu",
) -> Workload:
    """The workload of rows by their lengths. The largest micro-batch is taken as that of the longest rows.

    Args:
        validation_tokens: of one validation (`validated_tokens`).
        shared: tokens with which all rows begin; packed rows hold them once a micro-batch.
        device: says how many tokens at once gain nothing more (`batch_size: auto`).
    """
    ordered = sorted(lengths, reverse=True)
    if train.batch_size == "auto":
        together = _rows_within(ordered, shared, train.rows_per_step, most_at_once(device))
    else:
        together = train.batch_size if train.packing else 1
    batches = math.ceil(len(lengths) / together)
    tokens = sum(lengths) - shared * (len(lengths) - batches)
    longest = ordered[:together]
    return Workload(
        rows=len(lengths),
        tokens=tokens,
        seen_length=sum(length * length for length in lengths) / sum(lengths) if lengths else 0.0,
        loss_share=loss_tokens / tokens if tokens else 0.0,
        tokens_at_once=sum(longest) - shared * max(0, len(longest) - 1),
        validation_tokens=validation_tokens,
    )


def _rows_within(ordered: Sequence[int], shared: int, rows: int, most: int) -> int:
    """The rows of a step, or half of them and so on, until the longest ones together are no more than `most` tokens."""

    def fits(together: int) -> bool:
        return sum(ordered[:together]) - shared * (together - 1) <= most

    return largest_fitting(rows, fits)


def with_room(
    load: Workload, size: ModelSize, adapt: AdaptSpec, train: TrainSpec, machine: Machine, longest: int
) -> Workload:
    """The workload with the micro-batches that `batch_size: auto` will begin with in this memory.

    Args:
        longest: tokens of the longest row, which cannot be cut.
    """
    if train.batch_size != "auto":
        return load

    def fits(tokens: int) -> bool:
        parts = memory_parts(size, adapt, tokens, load.loss_share, machine.dtype, train.gradient_checkpointing)
        return (sum(parts.values()) + load.held_bytes + PROCESS_BYTES) * _MEMORY_SPREAD[
            "formula"
        ] <= SPARE * machine.memory_bytes

    return replace(load, tokens_at_once=largest_fitting(load.tokens_at_once, fits, least=longest))


def kind_of(machine: Machine, adapt: AdaptSpec, size: ModelSize) -> str:
    """Runs that are compared: same device, number format, method and magnitude of the model (powers of two)."""
    magnitude = round(math.log2(max(1, size.parameters)))
    held = "" if size.quantize == "none" else f" on {size.quantize}"
    return f"{machine.device}/{machine.dtype}/{adapt.kind}{held}/2^{magnitude}"


def steps_of(load: Workload, train: TrainSpec) -> int:
    """Optimizer steps of the whole training."""
    steps = math.ceil(train.epochs * math.ceil(load.rows / train.rows_per_step))
    return max(1, steps if train.max_steps is None else min(steps, train.max_steps))


def forecast(
    size: ModelSize,
    adapt: AdaptSpec,
    train: TrainSpec,
    load: Workload,
    machine: Machine,
    probe: ProbeResult | None = None,
    records: Sequence[ForecastRecord] = (),
) -> Forecast:
    """Predict one training. With a probe its seconds and bytes are taken, else the formulas."""
    steps = steps_of(load, train)
    epochs = min(train.epochs, steps * train.rows_per_step / max(1, load.rows))
    tokens = round(epochs * load.tokens)
    kept = train.blocks != "plain" and epochs > 1
    step_flops = flops_per_token(size, adapt, load.seen_length, load.loss_share, train.gradient_checkpointing, kept)
    step_flops += beginning_flops(size, adapt, train.gradient_checkpointing) / max(1, load.tokens_at_once)
    forward = forward_flops_per_token(size, load.seen_length + 2 * places_before(adapt), load.loss_share)
    step_flops += load.reads_ahead * forward
    validations = max(1, steps // train.eval_steps) if train.eval_steps else max(1, math.ceil(epochs))
    validation_flops = (validations * load.validation_tokens + load.measured_tokens) * forward
    parts = memory_parts(size, adapt, load.tokens_at_once, load.loss_share, machine.dtype, train.gradient_checkpointing)
    parts |= {"process": PROCESS_BYTES, "held": load.held_bytes}
    basis: Basis = "formula" if probe is None else "probe"
    seconds = tokens * step_flops / (machine.peak_flops * ASSUMED_UTILISATION)
    if probe is not None:
        seconds = tokens * probe.seconds_per_token
    peak = float(sum(parts.values()))
    if probe is not None and probe.peak_bytes is not None:
        # the probe makes no optimizer state: two float32 moments a trained number come on top
        peak = probe.peak_bytes + 8.0 * trained_parameters(size, adapt)
    kind = kind_of(machine, adapt, size)
    alike = [record for record in records if record.kind == kind and record.basis == basis]
    time_ratios = [record.actual_seconds / record.uncorrected_seconds for record in alike]
    byte_ratios = [record.actual_bytes / record.uncorrected_bytes for record in alike if record.actual_bytes]
    corrected = _corrected(seconds, time_ratios, _SPREAD[basis])
    whole = 1 + validation_flops / (tokens * step_flops) if tokens else 1.0
    hours = corrected.value * whole / 3600
    return Forecast(
        kind=kind,
        basis=basis,
        records=len(alike),
        steps=steps,
        rows_per_step=train.rows_per_step,
        tokens_at_once=load.tokens_at_once if train.batch_size == "auto" else None,
        tokens=tokens,
        flops=tokens * step_flops + validation_flops,
        trained_parameters=trained_parameters(size, adapt),
        seconds=Range(corrected.value * whole, corrected.low * whole, corrected.high * whole),
        peak_bytes=_corrected(peak, byte_ratios, _MEMORY_SPREAD[basis]),
        hours=hours,
        money=hours * machine.cost_per_hour if machine.cost_per_hour > 0 else None,
        memory_parts=parts,
        step_seconds=corrected.value,
        uncorrected_seconds=seconds,
        uncorrected_bytes=peak,
    )


def _corrected(value: float, ratios: Sequence[float], spread: float) -> Range:
    """The value times the median ratio; from three records on their own spread replaces the assumed one."""
    middle = value * (statistics.median(ratios) if ratios else 1.0)
    if len(ratios) < _ENOUGH_RECORDS:
        return Range(middle, middle / spread, middle * spread)
    return Range(middle, min(middle, value * min(ratios)), max(middle, value * max(ratios)))


# --------------------------------------------------------------------------------------------- records


def records_path(home: Path | None = None) -> Path:
    """Where forecasts and outcomes are kept: $TUNESMITH_HOME/forecasts.jsonl, else below ~/.cache/tunesmith."""
    return (home or cache_folder()) / RECORDS


def record(
    made: Forecast, actual_seconds: float, actual_bytes: float | None = None, home: Path | None = None
) -> ForecastRecord:
    """Keep what a forecast said and what happened. One line, written at once, so that runs side by side do not mix.

    Args:
        actual_seconds: of all the optimizer steps that were forecast.

    Errors: core.disk_full, core.not_writable, core.disk_fault.
    """
    entry = ForecastRecord(
        kind=made.kind,
        basis=made.basis,
        uncorrected_seconds=made.uncorrected_seconds,
        actual_seconds=actual_seconds,
        uncorrected_bytes=made.uncorrected_bytes,
        actual_bytes=actual_bytes,
        predicted_seconds=made.step_seconds,
        predicted_bytes=made.peak_bytes.value,
    )
    path = records_path(home)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            length = os.fstat(descriptor).st_size
            # A line that a crash cut short must not swallow this one.
            whole = length == 0 or os.pread(descriptor, 1, length - 1) == b"\n"
            os.write(descriptor, (b"" if whole else b"\n") + json.dumps(asdict(entry)).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return entry


def load_records(home: Path | None = None) -> list[ForecastRecord]:
    """Every usable record; lines that were cut or hold impossible values are passed over."""
    path = records_path(home)
    if not path.is_file():
        return []
    found = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = ForecastRecord(**json.loads(line))
            numbers = [entry.uncorrected_seconds, entry.actual_seconds, entry.uncorrected_bytes]
            numbers += [] if entry.actual_bytes is None else [entry.actual_bytes]
            if all(math.isfinite(number) and number > 0 for number in numbers):
                found.append(entry)
        except (ValueError, TypeError):
            continue
    return found[-_REMEMBERED:]
