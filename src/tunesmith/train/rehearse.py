"""The resume certificate: a short copy of a training is killed, resumed, and held against one that was not.

Three processes run one after the other over two folders:

    whole     the first steps of the training, unbroken
    broken    the same steps; a SIGKILL ends the process and whatever it has started, in the middle
    broken    again: it finds its newest checkpoint and goes on

Afterwards the last checkpoint of both must be the same to the byte, and so must the figures of every step, also of
those that were done twice. What a process does it tells on its standard output, a JSON object a line.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from tunesmith.core.errors import Fact, TunesmithError
from tunesmith.core.events import Value
from tunesmith.core.files import folder_hashes
from tunesmith.messages import LANGUAGES, both, say
from tunesmith.train.certify import differing_files
from tunesmith.train.checkpoint import checkpoint_facts, checkpoint_paths
from tunesmith.train.loop import Job, fit

STEPS = 8
"""Steps of the short copy, or all where the training has fewer."""
_SAVED_EVERY = 2
_TRIES = 5
_TIMES = frozenset({"seconds"})
"""Figures of a step that no second run can repeat."""

Told = Mapping[str, Value]
"""One line of a process: its kind and its figures."""
Command = Callable[[Path], Sequence[str]]
"""How a process is started that runs the copy in a folder."""


@dataclass(frozen=True)
class Rehearsal:
    """What was done and what came out.

    Attributes:
        steps: of the copy.
        saved_every: steps between two checkpoints.
        killed_after: the last step that the killed process had told of; it lived `delay_seconds` longer.
        resumed_from: step of the checkpoint that was found; 0 when none was whole yet.
        sha256: of the files of the unbroken copy's last checkpoint.
        differing: files of the resumed copy's last checkpoint that are others.
        figures: steps whose figures were compared (loss, gradient norm, step size, tokens), those of both processes.
    """

    steps: int
    saved_every: int
    killed_after: int
    delay_seconds: float
    resumed_from: int
    sha256: Mapping[str, str]
    differing: tuple[str, ...]
    figures: int
    figures_equal: bool

    @property
    def equal(self) -> bool:
        """Every byte of weights, masters and optimizer, and every figure of every step."""
        return not self.differing and self.figures_equal


class Teller:
    """The emitter of a process that rehearses: steps and the place of the resume go to its standard output."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def emit(self, kind: str, **values: Value) -> None:
        """One line for what the certificate compares."""
        if kind in ("step", "resume"):
            self._stream.write(json.dumps({"kind": kind, **values}) + "\n")
            self._stream.flush()


def play(job: Job, like: Path | None) -> None:
    """Run the short copy of a fit; its micro-batches are cut as in the folder `like`, where there is one."""
    steps = min(job.total_steps, STEPS)
    every = _saved_every(steps)
    if like is not None:
        job.passes.replay(checkpoint_facts(checkpoint_paths(like)[-1]).get("passes", {}))
    spec = job.spec.model_copy(update={"save_steps": every, "logging_steps": 1})
    fit(replace(job, spec=spec), until=steps)


def rehearse(aside: Path, command: Command, draw: random.Random) -> Rehearsal:
    """Run the copy whole, then broken and resumed; `draw` chooses the moment of the kill.

    Errors: those that the processes tell; lifecycle.rehearsal_failed where one ends otherwise than it should, or none
        could be killed before it was done.
    """
    whole, broken = aside / "whole", aside / "broken"
    unbroken = _run(command(whole))
    expected = _figures(unbroken.lines)
    steps, a_step = len(expected), unbroken.seconds_a_step
    every = _saved_every(steps)
    for _ in range(_TRIES):
        shutil.rmtree(broken, ignore_errors=True)
        last = draw.randint(min(every + 1, max(1, steps - 1)), max(1, steps - 1))
        delay = draw.random() * a_step
        ran = _run(command(broken), _Kill(last, delay))
        killed = ran.lines
        if ran.killed and len(_figures(killed)) < max(2, steps):
            break
        a_step /= 4
    else:
        reason = say("lifecycle.always_missed", tries=_TRIES)
        raise TunesmithError("lifecycle.rehearsal_failed", code=0, reason=reason)
    resumed = _run(command(broken)).lines
    left, right = (checkpoint_paths(folder)[-1] for folder in (whole, broken))
    compared = [*_steps(killed), *_steps(resumed)]
    return Rehearsal(
        steps=steps,
        saved_every=every,
        killed_after=max(_figures(killed), default=0),
        delay_seconds=round(delay, 3),
        resumed_from=next((int(str(line["step"])) for line in resumed if line["kind"] == "resume"), 0),
        sha256={name: digest for name, digest in folder_hashes(left).items() if name.endswith(".safetensors")},
        differing=differing_files(left, right),
        figures=len(compared),
        figures_equal=dict(compared).keys() == expected.keys() and all(expected[at] == each for at, each in compared),
    )


def as_page(found: Rehearsal, machine: Mapping[str, str]) -> str:
    """The certificate as Markdown, in every language; `machine` are the conditions it was made under."""
    facts: dict[str, Fact] = {
        "steps": found.steps,
        "every": found.saved_every,
        "step": found.killed_after,
        "seconds": found.delay_seconds,
        "resumed": found.resumed_from,
        "figures": found.figures,
        "files": ", ".join(found.differing) or "-",
    }
    outcome = "certificate_equal" if found.equal else "certificate_differs"
    codes = ("certificate_title", "certificate_what", "certificate_kill", outcome, "certificate_hashes")
    words = {code: both(f"lifecycle.{code}", **facts) for code in codes}
    hashes = "\n".join(f"- {name}: {digest}" for name, digest in found.sha256.items())
    conditions = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    parts = [
        f"# {words['certificate_title'][each]}\n\n"
        + "\n\n".join(words[code][each] for code in codes[1:])
        + f"\n\n{hashes}\n{conditions}\n"
        for each in LANGUAGES
    ]
    return "\n".join(parts)


def _saved_every(steps: int) -> int:
    return min(_SAVED_EVERY, max(1, steps // 3))


def _steps(lines: Iterable[Told]) -> Iterator[tuple[int, Told]]:
    for line in lines:
        if line["kind"] == "step":
            yield int(str(line["step"])), {name: value for name, value in line.items() if name not in _TIMES}


def _figures(lines: Iterable[Told]) -> dict[int, Told]:
    return dict(_steps(lines))


@dataclass(frozen=True)
class _Kill:
    """So many seconds after the process has told of this step."""

    step: int
    delay: float


@dataclass(frozen=True)
class _Ran:
    """What a process told, whether our kill ended it, and the time between the first step that it told of and the last,
    by step: a kill later than that comes too late, and the process must be started anew."""

    lines: list[Told]
    killed: bool
    seconds_a_step: float


def _run(command: Sequence[str], kill: _Kill | None = None) -> _Ran:
    """Run a process in a group of its own, and kill the group if asked to; it may have come to its end before.

    Errors: lifecycle.rehearsal_failed where anything else has ended it.
    """
    found: list[Told] = []
    told_at: list[float] = []
    words, struck = "-", False
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            for text in process.stdout or ():
                line = _told(text)
                if line is None:
                    words = text.strip() or words
                    continue
                found.append(line)
                if line["kind"] == "step":
                    told_at.append(time.monotonic())
                if kill is not None and line["kind"] == "step" and int(str(line["step"])) == kill.step:
                    time.sleep(kill.delay)
                    os.killpg(process.pid, signal.SIGKILL)
                    struck = True
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    killed = struck and process.returncode == -signal.SIGKILL
    if process.returncode != 0 and not killed:
        raise TunesmithError("lifecycle.rehearsal_failed", code=process.returncode, reason=words[:300])
    between = told_at[-1] - told_at[0] if told_at else 0.0
    return _Ran(found, killed, between / max(1, len(told_at) - 1))


def _told(text: str) -> Told | None:
    """What a line tells; None for other words, and for a line that the kill cut. An error that is told is raised."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or "kind" not in line:
        return None
    if line["kind"] == "error":
        raise TunesmithError(str(line["code"]), **line["facts"])
    return line
