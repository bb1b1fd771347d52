"""Probes of what a model knows besides its task: questions with choices, one of them right.

A line of a probe file is a JSON object:

    question, choices, answer (index)                       the choices continue the question
    context_options, continuation, answer (index)           one text continues either context (as in Winogrande)

`lang: zh` sets no blank between the two parts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import user_path

PROBE_FILE = "probe.jsonl"
"""What is read where a recipe names a folder."""


@dataclass(frozen=True)
class Candidate:
    """A text and what continues it: only the continuation is scored."""

    context: str
    continuation: str


@dataclass(frozen=True)
class Probe:
    """One question; `right` is the place of the right candidate."""

    candidates: tuple[Candidate, ...]
    right: int


def probe_file(stated: str, folder: Path) -> Path:
    """The file that a recipe means; paths start at `folder`."""
    path = user_path(stated, folder)
    return path / PROBE_FILE if path.is_dir() else path


def read_probes(path: Path) -> list[Probe]:
    """All probes of a file. Errors: core.missing_file, evaluate.bad_probe."""
    if not path.is_file():
        raise TunesmithError("core.missing_file", path=str(path))
    probes: list[Probe] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            probes.append(_probe(json.loads(line)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TunesmithError("evaluate.bad_probe", path=str(path), line=number) from error
    if not probes:
        raise TunesmithError("evaluate.bad_probe", path=str(path), line=1)
    return probes


def _probe(row: object) -> Probe:
    """Errors: ValueError, KeyError, TypeError where a row has another shape."""
    if not isinstance(row, dict):
        raise TypeError("an object")
    blank = "" if row.get("lang") == "zh" else " "
    if "context_options" in row:
        ending = _text(row["continuation"])
        pairs = [(_text(each), ending) for each in _listed(row["context_options"])]
    else:
        question = _text(row["question"])
        pairs = [(question, _text(each)) for each in _listed(row["choices"])]
    right = row["answer"]
    if type(right) is not int or not 0 <= right < len(pairs) or len(pairs) < 2:
        raise ValueError("answer")
    joined = [Candidate(first, ("" if first[-1].isspace() else blank) + second) for first, second in pairs]
    return Probe(tuple(joined), right)


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("a list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError("a text")
    return value
