"""What this machine can do, without torch: the best speed of a matrix product."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tunesmith.core.calibration import cpu_place, find
from tunesmith.core.process import available_cores
from tunesmith.models.catalog import cache_folder

_SIDE = 1024
_TRIES = 5
_CPU_INFO = Path("/proc/cpuinfo")
# Measured ratios of bfloat16 to float32 products: 4 with tile instructions, 3.5 with AVX512 dot products.
_BF16_FLAGS = {"amx_bf16": 4.0, "avx512_bf16": 3.5}


def float32_peak() -> float:
    """Best float32 matrix product seen in a few tries, FLOP/s; takes some tenths of a second."""
    left, right = np.ones((_SIDE, _SIDE), np.float32), np.ones((_SIDE, _SIDE), np.float32)
    seconds = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - started)
    return float(2 * _SIDE**3 / min(seconds))


def bfloat16_factor(cpu_info: Path = _CPU_INFO) -> float:
    """How much faster bfloat16 products are than float32's on this CPU, by its instructions; 1 when it has none."""
    try:
        flags = set(cpu_info.read_text("utf-8", errors="replace").split())
    except OSError:
        return 1.0
    return max((factor for flag, factor in _BF16_FLAGS.items() if flag in flags), default=1.0)


def cpu_peak(dtype: str, threads: int | None = None, home: Path | None = None) -> float:
    """Best matrix product of this CPU in the number format, FLOP/s: the kept calibration, else an estimate.

    Args:
        threads: of the run; none takes all cores.
        home: where the calibration is kept; none takes the cache folder.
    """
    kept = find(home or cache_folder(), cpu_place(threads or available_cores()), dtype).calibration
    if kept is not None:
        return kept.peak
    return float32_peak() * (bfloat16_factor() if dtype == "bfloat16" else 1.0)
