"""What a run cost: machine hours, and money when the price of an hour is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Cost:
    """Machine hours by stage and together; `money` in the currency of the stated price, None when none was stated."""

    hours_by_stage: Mapping[str, float]
    hours: float
    money: float | None


def cost(seconds_by_stage: Mapping[str, float], machine_cost_per_hour: float = 0.0, machines: int = 1) -> Cost:
    """Add up stages. Every machine counts for the whole time of a stage."""
    hours = {stage: seconds * machines / _SECONDS_PER_HOUR for stage, seconds in seconds_by_stage.items()}
    total = sum(hours.values())
    return Cost(hours, total, total * machine_cost_per_hour if machine_cost_per_hour > 0 else None)
