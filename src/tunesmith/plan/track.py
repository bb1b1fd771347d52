"""From the forecast to what happened: a probe makes it better, and the outcome teaches the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter, read_events
from tunesmith.core.files import read_json
from tunesmith.plan.expert_sizes import Experts
from tunesmith.plan.forecast import Forecast, Machine, ProbeResult, Workload, forecast, load_records, record
from tunesmith.plan.make import PLAN_JSON, Grounds, announce_forecast
from tunesmith.plan.sizes import ModelSize
from tunesmith.recipe.recipe import StageSpec


@dataclass(frozen=True)
class Outcome:
    """How a fit went: steps done, seconds in them, most memory held (None where the process had held more before)."""

    steps: int
    seconds: float
    peak_bytes: int | None


def raised_to(peak: int, before: int) -> int | None:
    """The peak of the process where this part of the work made it, None where an earlier part had held as much."""
    return peak if peak > before else None


def after_probe(run_path: Path, stage: StageSpec, probe: ProbeResult, emitter: Emitter) -> None:
    """Tell what two steps took (`probe`) and the forecast that follows from them (`forecast`)."""
    emitter.emit("probe", stage=stage.name, seconds_per_token=probe.seconds_per_token, peak_bytes=probe.peak_bytes)
    grounds = _grounds(run_path, stage)
    if grounds is not None:
        announce_forecast(_forecast(grounds, stage, probe), emitter)


def after_fit(run_path: Path, metrics: Path, stage: StageSpec, outcome: Outcome, emitter: Emitter) -> None:
    """Hold the forecasts against what happened (`forecast_error`) and keep both in this machine's record.

    A fit that ended early is compared over the steps it did. A record that cannot be written is an alarm, not the end
    of a training that succeeded.
    """
    grounds = _grounds(run_path, stage)
    if grounds is None or not outcome.steps or outcome.seconds <= 0:
        return
    made = [_forecast(grounds, stage, None)]
    probed = [event.values for event in read_events(metrics, "probe") if event.values.get("stage") == stage.name]
    if probed:
        made.append(_forecast(grounds, stage, _probe_of(probed[-1])))
    told = made[-1]
    share = outcome.steps / told.steps
    emitter.emit(
        "forecast_error",
        stage=stage.name,
        basis=told.basis,
        seconds=round(told.step_seconds * share, 3),
        actual_seconds=round(outcome.seconds, 3),
        memory_mb=round(told.peak_bytes.value / 2**20),
        actual_memory_mb=None if outcome.peak_bytes is None else round(outcome.peak_bytes / 2**20),
    )
    try:
        for each in made:
            record(each, outcome.seconds / share, outcome.peak_bytes)
    except TunesmithError as error:
        emitter.emit("alarm", code=error.code, **error.facts)


def _forecast(grounds: Grounds, stage: StageSpec, probe: ProbeResult | None) -> Forecast:
    size, load, machine = grounds.size, grounds.load, grounds.machine
    return forecast(size, stage.adapt, stage.train, load, machine, probe, load_records())


def _probe_of(values: Mapping[str, object]) -> ProbeResult:
    peak = values.get("peak_bytes")
    return ProbeResult(float(str(values["seconds_per_token"])), peak if isinstance(peak, int) else None)


def _grounds(run_path: Path, stage: StageSpec) -> Grounds | None:
    """What plan.json says the forecast of a stage stands on; None for a run that was planned without."""
    if not (run_path / PLAN_JSON).is_file():
        return None
    of_stages = read_json(run_path / PLAN_JSON).get("grounds")
    stated = of_stages.get(stage.name) if isinstance(of_stages, dict) else None
    if not isinstance(stated, dict):
        return None
    parts = cast("dict[str, dict[str, object]]", stated)
    return Grounds(
        # written from these very classes
        ModelSize(**{**parts["size"], "experts": Experts(**parts["size"]["experts"])}),  # type: ignore[arg-type]
        Workload(**parts["load"]),  # type: ignore[arg-type]
        Machine(**parts["machine"]),  # type: ignore[arg-type]
    )
