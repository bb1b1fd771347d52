"""What must be settled in a process before anything heavy is imported: threads, allocator, no telemetry.

glibc gives large blocks back to the system after every step, and the page faults of taking them again dominate
training on a CPU; `hold_memory` tells it to keep them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
_GLIBC_MAX_INT = 2**31 - 1

_ENVIRONMENT = {
    "MKL_DYNAMIC": "FALSE",  # a library that changes its thread count changes the order of sums, and the bytes
    "OMP_DYNAMIC": "FALSE",
    # Threads that spin while they wait keep each other from the cores as soon as another process is busy. 1,500 small
    # bfloat16 products took 2.1 s spinning, 2.1 s with a short spin and 2.4 s asleep on a quiet machine, and 30 to 77,
    # 3.5 to 9.5 and 3 to 7 s beside busy processes: a short spin loses nothing and risks little.
    "GOMP_SPINCOUNT": "2000",
    # oneDNN keeps its programs for 1,024 shapes of products, 0.4-0.7 MB each. A pass needs about 100, since attention
    # rounds its lengths: training 64 rows of 120 to 700 tokens peaked at 3.7, 3.15 and 3.05 GB with 1,024, 192 and 96
    # of them, at equal speed. Too few for one pass would make each anew in every layer.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "192",
    "TOKENIZERS_PARALLELISM": "false",
    # What libraries would send home of their own accord, and the code that transformers would fetch from a hub: off
    # before any of them is imported, whether installed here or not.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "DISABLE_TELEMETRY": "1",
    "USE_HUB_KERNELS": "0",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "ANONYMIZED_TELEMETRY": "False",
    "VLLM_NO_USAGE_STATS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def available_cores() -> int:
    """Cores this process may use, which a container may have made fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_alive(pid: int) -> bool:
    """Whether a process of this number runs on this machine, whoever's it is."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def prepare() -> None:
    """Settle environment and allocator. Call once, before torch or transformers is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cores()))
    _no_code_from_a_hub()
    hold_memory()


def _no_code_from_a_hub() -> None:
    """Keep bitsandbytes from fetching a compiled kernel when it is imported, which PEFT does wherever it is installed.

    It asks the library `kernels` for one on CPUs with bfloat16 instructions, and warns where there is none.
    """
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # importing it then fails as if it were not there
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def hold_memory() -> bool:
    """Ask glibc to keep freed memory for the next step; True when it agreed (False elsewhere than glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _M_MMAP_THRESHOLD: 1 << 30,
        _M_TRIM_THRESHOLD: _GLIBC_MAX_INT,
        _M_TOP_PAD: 64 << 20,
        _M_MMAP_MAX: 0,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())


def peak_memory_bytes() -> int:
    """Most resident memory this process ever held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
