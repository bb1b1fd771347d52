"""What a training depends on, by name and value, so that a resume under other conditions can say what differs.

`inputs` decide what is trained: settings, rows, base. `machine` decides the last bits of it: versions of the packages,
processor, threads. Both stand in every checkpoint.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunesmith.core.run import installed_versions

MACHINE_CHANGED = "lifecycle.machine_changed"
"""Code of the alarm that a stage was done under other conditions than its run began with."""
MACHINE_ACCEPTED = "train.machine_accepted"
"""Code of the alarm that a training went on, as asked, under other conditions than its checkpoint was made under."""
_ABSENT = "-"
_HASH = re.compile(r"[0-9a-f]{64}")
_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Conditions:
    """Names and values, as text."""

    inputs: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)

    def and_input(self, name: str, value: str) -> Conditions:
        """The same conditions and one more input."""
        return Conditions({**self.inputs, name: value}, self.machine)


def machine_conditions(threads: int, processor: str) -> dict[str, str]:
    """What of a machine and its packages changes the last bits of a result."""
    python = platform.python_version()
    return {**installed_versions(), "python": python, "threads": str(threads), "processor": processor}


def differences(was: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """`name: was -> is` of every entry that is not the same; - stands for an entry that is not there."""
    return tuple(
        f"{name}: {_shown(was.get(name))} -> {_shown(now.get(name))}"
        for name in dict.fromkeys([*was, *now])
        if was.get(name) != now.get(name)
    )


def listed(found: tuple[str, ...]) -> str:
    """Differences as one line of text."""
    return "; ".join(found)


def _shown(value: str | None) -> str:
    if value is None:
        return _ABSENT
    return value[:_SHOWN_DIGITS] if _HASH.fullmatch(value) else value
