"""What every benchmark writes: the machine, the versions, and one line a figure with all its runs.

{"machine": {...}, "versions": {...}, "rows": [{"case", "system", "setting", "metric", "median", "runs": [...]}]}
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from tunesmith.core.files import write_json
from tunesmith.core.process import available_cores

RESULTS = Path(__file__).parent / "results"
_CPU_INFO = Path("/proc/cpuinfo")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_PACKAGES = ("tunesmith", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "trl", "llamafactory", "numpy")


def machine() -> dict[str, object]:
    """What a reader must know to compare: processor, cores, vector instructions, memory."""
    facts = dict(_cpu_facts())
    return {
        "processor": facts.get("model name", platform.processor() or platform.machine()),
        "cores": available_cores(),
        "instructions": [flag for flag in _FLAGS if flag in facts.get("flags", "").split()],
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def _cpu_facts() -> list[tuple[str, str]]:
    """Name and value of every line about the processors; nothing where the system has no such file."""
    if not _CPU_INFO.is_file():
        return []
    lines = (line.partition(":") for line in _CPU_INFO.read_text("utf-8", errors="replace").splitlines())
    return [(name.strip(), value.strip()) for name, colon, value in lines if colon]


def _hardware(machine: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in machine.items() if name != "system"}


def versions() -> dict[str, str]:
    """Versions of what took part, as far as it is installed here."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Results:
    """Figures of all runs so far; written after every run, so that a benchmark that is broken off keeps them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._machine = machine()
        self._versions = versions()
        self._runs: dict[tuple[str, str, str, str], list[float]] = {}
        self._notes: list[str] = []

    def keep_earlier(self) -> None:
        """Go on from the figures in the file, if machine and versions are the same; else they are left behind, said.

        Another build of the operating system is the same machine: what is compared is measured in one run.
        """
        if not self._path.is_file():
            return
        earlier = json.loads(self._path.read_text("utf-8"))
        if (_hardware(earlier["machine"]), earlier["versions"]) != (_hardware(self._machine), self._versions):
            print(f"figures in {self._path} are of another machine or of other versions: begun anew", flush=True)
            return
        for row in earlier["rows"]:
            self._runs[(row["case"], row["system"], row["setting"], row["metric"])] = row["runs"]
        self._notes = earlier["notes"]

    def add(self, case: str, system: str, setting: str, metric: str, value: float) -> None:
        """One more run of a figure."""
        self._runs.setdefault((case, system, setting, metric), []).append(value)

    def note(self, text: str) -> None:
        """Something a reader must know: what is missing and why. Said at once and kept."""
        print(f"note: {text}", flush=True)
        self._notes.append(text)

    def version(self, name: str, number: str) -> None:
        """A version that lives in an environment of its own."""
        self._versions[name] = number

    def runs(self, case: str, system: str, setting: str, metric: str) -> list[float]:
        """All runs of a figure; empty when it was not measured."""
        return self._runs.get((case, system, setting, metric), [])

    def write(self) -> None:
        """Write everything so far."""
        names = ("case", "system", "setting", "metric")
        rows = [
            {**dict(zip(names, key, strict=True)), "median": statistics.median(runs), "runs": runs}
            for key, runs in self._runs.items()
        ]
        write_json(
            self._path, {"machine": self._machine, "versions": self._versions, "rows": rows, "notes": self._notes}
        )

    def headline(self) -> str:
        """Machine and versions in two lines."""
        facts = ", ".join(str(value) for value in self._machine.values())
        return facts + "\n" + ", ".join(f"{name} {number}" for name, number in self._versions.items())


def spread(runs: Sequence[float], digits: int = 0) -> str:
    """Median and, of several runs, the lowest and highest; a dash where there are none."""
    if not runs:
        return "-"
    median = f"{statistics.median(runs):.{digits}f}"
    return median if len(runs) == 1 else f"{median} ({min(runs):.{digits}f}-{max(runs):.{digits}f})"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first one to the left."""
    widths = [max(len(line[column]) for line in (heads, *lines)) for column in range(len(heads))]
    rows = [heads, ["-" * width for width in widths], *lines]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
