"""The plan of several stages in a row: times add up, memory is that of the largest, findings stand once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from tunesmith.plan.forecast import Forecast, Range
from tunesmith.plan.readiness import joined
from tunesmith.plan.report import Plan

_Found = TypeVar("_Found")


def together(names: Sequence[str], plans: Sequence[Plan]) -> Plan:
    """One plan of all stages, each with its own forecast beside the sum; a single stage's plan is the run's."""
    if len(plans) == 1:
        return plans[0]
    return replace(
        plans[-1],
        readiness=joined([plan.readiness for plan in plans]),
        advice=_once(each for plan in plans for each in plan.advice),
        warnings=_once(each for plan in plans for each in plan.warnings),
        forecast=summed([plan.forecast for plan in plans]),
        stages=tuple(zip(names, (plan.forecast for plan in plans), strict=True)),
    )


def summed(forecasts: Sequence[Forecast]) -> Forecast:
    """The forecast of all stages one after the other; what stands in memory is that of the stage that needs most."""
    largest = max(forecasts, key=lambda each: each.peak_bytes.value)
    seconds = Range(
        sum(each.seconds.value for each in forecasts),
        sum(each.seconds.low for each in forecasts),
        sum(each.seconds.high for each in forecasts),
    )
    prices = [each.money for each in forecasts if each.money is not None]
    return replace(
        largest,
        tokens_at_once=None,
        records=min(each.records for each in forecasts),
        steps=sum(each.steps for each in forecasts),
        tokens=sum(each.tokens for each in forecasts),
        flops=sum(each.flops for each in forecasts),
        seconds=seconds,
        hours=sum(each.hours for each in forecasts),
        money=sum(prices) if len(prices) == len(forecasts) else None,
        step_seconds=sum(each.step_seconds for each in forecasts),
        uncorrected_seconds=sum(each.uncorrected_seconds for each in forecasts),
    )


def _once(found: Iterable[_Found]) -> tuple[_Found, ...]:
    """Each once, in their order; they hold tables and have no hash."""
    kept: list[_Found] = []
    for each in found:
        if each not in kept:
            kept.append(each)
    return tuple(kept)
