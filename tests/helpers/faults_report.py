"""The table of faults that the product must survive, and the report of a run of it."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tunesmith.core.files import write_atomic, write_json
from tunesmith.core.run import installed_versions

CASES = {
    "A1": "killed at random moments",
    "A2": "killed at every file operation of a save, a data set build, an export, and of the recovery",
    "A3": "power cut: what was not synced is lost",
    "A4": "SIGTERM and Ctrl-C",
    "A6": "stopped inside accumulation, evaluation, at the epoch's edge, while patience counts",
    "A7": "a state file missing, empty or cut; nothing valid at all",
    "A8": "resumed with something changed",
    "A9": "two processes on one run folder",
    "B1": "disk full, faulty, read-only, short writes",
    "B2": "one bit flipped",
    "B3": "rotation of checkpoints",
    "B4": "names: Chinese, emoji, spaces, long, reserved, direction marks",
    "C1": "NaN and infinity in loss, gradient and metric",
    "C2": "the same batch cut in every way, and by two processes",
    "C3": "packed and not packed",
    "C4": "answers cut away: nothing left to learn",
    "C5": "mask and end token",
    "C6": "unknown, misspelt and contradictory settings",
    "C7": "each method trains what it says",
    "D2": "every row accounted for",
    "D3": "encodings and hostile JSON",
    "D5": "an edit that keeps size and time",
    "D7": "archives and bombs: what is packed, documents, names that leave their folder",
    "E1": "parity gate of every export",
    "E3": "adapter with a wrong prefix, missing or extra keys, another base",
    "E4": "added tokens and resized embeddings",
    "E5": "the same ids in training, service and GGUF",
    "E6": "the number format stated is that in the file",
    "F1": "pickle and tagged YAML anywhere",
    "F2": "hostile config.json",
    "F3": "hostile templates",
    "F4": "hostile safetensors",
    "F6": "static and offline guards",
    "G1": "broken, slow and huge request bodies",
    "G2": "fuzzed requests, overload, soak",
    "G7": "a service that cannot start says so",
    "G8": "path tricks in every string field",
}
"""Number and title, in the order of the report."""


@dataclass
class Entry:
    """What one test of the table found."""

    cases: tuple[str, ...]
    outcome: str = "not run"
    seconds: float = 0.0
    seed: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


def write_report(path: Path, entries: Mapping[str, Entry]) -> None:
    """The report as Markdown (totals, one line a test, the cases that nothing stood for), and as JSON beside it."""
    totals: Counter[str] = Counter()
    for entry in entries.values():
        totals.update(entry.counts)
    passed = sum(entry.outcome == "passed" for entry in entries.values())
    missing = [number for number in CASES if not any(number in entry.cases for entry in entries.values())]
    versions = ", ".join(f"{name} {version}" for name, version in installed_versions().items())
    lines = [
        "# Fault table",
        "",
        f"{time.strftime('%Y-%m-%d %H:%M')}, {platform.platform()}, Python {platform.python_version()}, {versions}.",
        "",
        f"{passed} of {len(entries)} tests passed in {sum(each.seconds for each in entries.values()):,.0f} seconds.",
        f"Cases without a test in this run: {', '.join(missing) or 'none'}.",
        "",
        "Tried: " + ", ".join(f"{number:,} {what}" for what, number in sorted(totals.items())) + ".",
        "",
        "| case | test | result | tried | seed | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for number, title in CASES.items():
        mine = {name: entry for name, entry in entries.items() if number in entry.cases}
        lines.append(f"| **{number}** | **{title}** | {_summary(mine.values())} | | | |")
        lines.extend(_line(name, entry) for name, entry in sorted(mine.items()))
    write_atomic(path, "\n".join(lines) + "\n")
    write_json(path.with_suffix(".json"), {name: asdict(entry) for name, entry in entries.items()})


def read_entries(path: Path) -> dict[str, Entry]:
    """What an earlier run has found; nothing where there was none."""
    kept = path.with_suffix(".json")
    found = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    return {name: Entry(**{**entry, "cases": tuple(entry["cases"])}) for name, entry in found.items()}


def _summary(entries: Iterable[Entry]) -> str:
    outcomes = {entry.outcome for entry in entries}
    return "**no test**" if not outcomes else "holds" if outcomes == {"passed"} else "**does not hold**"


def _line(name: str, entry: Entry) -> str:
    tried = ", ".join(f"{number:,} {what}" for what, number in entry.counts.items())
    seed = "" if entry.seed is None else str(entry.seed)
    words = name.split("::", 1)[1].removeprefix("test_").replace("_", " ").replace("|", "/")
    return f"| | {words} | {entry.outcome} | {tried} | {seed} | {entry.seconds:.1f} |"
