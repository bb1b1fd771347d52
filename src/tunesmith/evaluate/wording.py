"""Figures in words, in every language at once: what the release card and its gates are written with."""

from __future__ import annotations

from collections.abc import Mapping

from tunesmith.core.errors import Fact
from tunesmith.evaluate.intervals import Interval
from tunesmith.evaluate.metrics import METRICS
from tunesmith.messages import LANGUAGES, Language, both

Words = Mapping[Language, str]
"""One text in every language."""

_KNOWN_METRICS = frozenset(METRICS)


def words_of(code: str, **values: Fact | Words) -> Words:
    """The sentence `evaluate.<code>` in every language; a value may itself be words in every language."""
    found: dict[Language, str] = {}
    for each in LANGUAGES:
        facts: dict[str, Fact] = {
            name: value if isinstance(value, str | int | float) else value[each] for name, value in values.items()
        }
        found[each] = both(f"evaluate.{code}", **facts)[each]
    return found


def reason_words(reason: str) -> Words:
    """Why rows went, from the ledger's code; a reason that has no words of its own is shown as it is."""
    try:
        return both(f"data.reason_{reason}")
    except KeyError:
        return plain(reason)


def plain(text: str) -> Words:
    """A text that is the same in every language, such as a number."""
    return dict.fromkeys(LANGUAGES, text)


def percent(share: float) -> str:
    """A share as text, such as 87.5%. Never rounds up to 100%: that is said only when nothing is missing."""
    text = f"{100 * share:.1f}"
    if text == "100.0":
        return "100%" if share >= 1 else "99.9%"
    return f"{text}%"


def points(share: float) -> Words:
    """A difference of shares in points of 100, such as +41.5 points."""
    return words_of("points", points=f"{100 * share:+.1f}")


def with_interval(value: str | Words, interval: Interval, signed: bool = False) -> Words:
    """A figure followed by its range in percent or, signed, in points."""
    low, high = (f"{100 * x:+.1f}" if signed else f"{100 * x:.1f}" for x in (interval.low, interval.high))
    return words_of("with_interval", value=value, low=low, high=high)


def metric_words(name: str) -> Words:
    """A metric by its name in words, with the task that it is of, such as intents/accuracy; one that is not ours keeps
    its name."""
    task, _, metric = name.rpartition("/")
    if task and metric in _KNOWN_METRICS:
        return words_of("metric_of_task", task=task, metric=metric_words(metric))
    return words_of(f"metric_{name}") if name in _KNOWN_METRICS else plain(name)


def duration(seconds: float) -> Words:
    """A time in words, such as 8 min 12 s."""
    if seconds < 10:
        return words_of("duration_seconds", seconds=f"{seconds:.2f}")
    whole = round(seconds)
    if whole < 60:
        return words_of("duration_seconds", seconds=whole)
    if whole < 3600:
        return words_of("duration_minutes", minutes=whole // 60, seconds=whole % 60)
    return words_of("duration_hours", hours=whole // 3600, minutes=whole % 3600 // 60)


def file_size(size: int) -> str:
    """Bytes in the unit that reads best, powers of 1000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"
