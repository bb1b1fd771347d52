"""Speed of answers, from timings that the caller took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.core.errors import TunesmithError


@dataclass(frozen=True)
class Timing:
    """One answer: seconds from question to last token, and tokens generated."""

    seconds: float
    tokens: int


@dataclass(frozen=True)
class Speed:
    """Latency of an answer in seconds (median and 99th percentile) and tokens a second over all of them."""

    answers: int
    p50_seconds: float
    p99_seconds: float
    tokens_per_second: float


def speed(timings: Sequence[Timing], wall_seconds: float | None = None) -> Speed:
    """Summarise timings. `wall_seconds` is what all answers took together when they overlapped (a batch, several
    clients); without it they came one after the other. Errors: evaluate.no_rows."""
    if not timings:
        raise TunesmithError("evaluate.no_rows")
    seconds = sorted(timing.seconds for timing in timings)
    wall = sum(seconds) if wall_seconds is None else wall_seconds
    tokens = sum(timing.tokens for timing in timings)
    return Speed(len(seconds), _percentile(seconds, 50), _percentile(seconds, 99), tokens / wall if wall > 0 else 0.0)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Nearest rank: the smallest value seen that at least this share of answers did not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
