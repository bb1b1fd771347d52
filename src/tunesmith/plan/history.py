"""The machine's own record of forecasts: what was said, and what it became. One JSON line a fit and quantity.

It lies beside the models in $TUNESMITH_HOME, belongs to this machine, and never leaves it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from pathlib import Path

from tunesmith.core.files import disk_errors
from tunesmith.models.catalog import cache_folder
from tunesmith.plan.forecast import Correction

FILE = "forecasts.jsonl"
_REMEMBERED = 20
"""Newest fits of a kind that count: the machine and this program change."""


def record_path() -> Path:
    """Where this machine's record lies."""
    return cache_folder() / FILE


def record(path: Path, kind: str, predicted: float, actual: float) -> None:
    """Append one pair, durably; one that is not two positive numbers teaches nothing and is left out.

    `predicted` is the forecast before any correction by this record. Errors: core.disk_full, core.not_writable,
    core.disk_fault.
    """
    if not all(math.isfinite(value) and value > 0 for value in (predicted, actual)):
        return
    values = {"time": round(time.time()), "kind": kind, "predicted": predicted, "actual": actual}
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - 1))
            # A line that a crash cut short must not swallow this one.
            begin = b"" if stream.read(1) in (b"", b"\n") else b"\n"
            stream.write(begin + json.dumps(values).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def correction(path: Path, kind: str) -> Correction:
    """Median of actual / predicted over the newest fits of a kind, and their number; (1, 0) where there is none.

    Lines that are no such pair are passed over.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return Correction()
    ratios = [ratio for ratio in (_ratio(line, kind) for line in lines) if ratio is not None][-_REMEMBERED:]
    return Correction(statistics.median(ratios), len(ratios)) if ratios else Correction()


def _ratio(line: bytes, kind: str) -> float | None:
    try:
        values = json.loads(line)
        if values["kind"] != kind:
            return None
        ratio = float(values["actual"]) / float(values["predicted"])
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        return None
    return ratio if math.isfinite(ratio) and ratio > 0 else None
