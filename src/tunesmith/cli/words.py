"""Small pieces of text that several verbs need: times, shares, and sentences that may be missing."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.core.errors import Fact
from tunesmith.messages import say


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return say("cli.seconds", seconds=f"{seconds:.1f}")
    minutes, rest = divmod(round(seconds), 60)
    return say("cli.minutes", minutes=minutes, seconds=rest)


def percent(share: float) -> str:
    """A share of 0 to 1 in percent with one digit."""
    return f"{100 * share:.1f} %"


def told(code: str, facts: Mapping[str, Fact]) -> str:
    """The sentence of a code, or the code and its facts where the catalogue has none."""
    try:
        return say(code, **facts)
    except (KeyError, IndexError):
        return " ".join([code, *(f"{name}={value}" for name, value in facts.items())])
