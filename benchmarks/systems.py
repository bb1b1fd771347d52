"""Who is measured, in which settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class System:
    """One trainer in one setting.

    `hold_memory` gives it the process settings of Tunesmith (allocator, short spin); `checkpointing` says that it
    computes activations again to save memory; `python` is the interpreter of its environment.
    """

    name: str
    setting: str
    file: str
    hold_memory: bool = False
    checkpointing: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable

    @property
    def label(self) -> str:
        """For tables and for `--only`."""
        return f"{self.name}: {self.setting}"


PLAIN_SWITCH = "blocks"
"""Field of the recipe's `train` that chooses the engine's form of the blocks."""

OURS = System("tunesmith", "default", "ours", hold_memory=True)
OURS_PLAIN = System("tunesmith", "plain", "ours", hold_memory=True, options={f"stages.0.train.{PLAIN_SWITCH}": "plain"})
TRL = System("trl", "default", "trl", checkpointing=True)
TRL_NO_CHECKPOINTING = System("trl", "no checkpointing", "trl", options={"gradient_checkpointing": "no"})
TRL_TUNED = System(
    "trl",
    "tuned",
    "trl",
    hold_memory=True,
    options={"gradient_checkpointing": "no", "dtype": "bfloat16", "sorted": "yes"},
)
HAND = System("hand loop", "sorted", "hand")
HAND_ALLOCATOR = System("hand loop", "sorted, allocator", "hand", hold_memory=True)
HAND_FLOAT32 = System(
    "hand loop", "sorted, allocator, float32 adapters", "hand", hold_memory=True, options={"adapters": "float32"}
)
"""PEFT's own default. With adapters in bfloat16 every update is rounded to what bfloat16 holds, and held-out losses
come out elsewhere: by 0.015 on long-prompt, with the same rows in the same order from the same start."""
HAND_EXPERT = System(
    "hand loop", "sorted, allocator, answer logits", "hand", hold_memory=True, options={"head": "answers"}
)

LLAMA_FACTORY = System(
    "llama-factory",
    "default",
    "llamafactory",
    checkpointing=True,
    python=os.environ.get("TUNESMITH_BENCH_LLAMAFACTORY", ""),
)
"""Only where $TUNESMITH_BENCH_LLAMAFACTORY names the interpreter of an environment that has it."""

SYSTEMS = (OURS, OURS_PLAIN, HAND_EXPERT, HAND_ALLOCATOR, HAND, TRL_TUNED, TRL_NO_CHECKPOINTING, TRL, LLAMA_FACTORY)

FASTER_THAN = ((TRL_NO_CHECKPOINTING, 5.0), (TRL_TUNED, 3.5), (HAND_ALLOCATOR, 2.0))
"""Times faster than each that Tunesmith is to be, in real tokens a second."""
SMALLER_THAN = 3.0
"""Times smaller than every system without checkpointing that its peak memory is to be."""


def version_in(python: str, package: str) -> str:
    """Version of a package in another environment; empty when there is none."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()
