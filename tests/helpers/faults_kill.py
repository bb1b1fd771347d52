"""The kill runner: children of one warmed Python that are struck by a signal at a chosen moment.

    with KillRunner(folder) as runner:
        outcome = runner.do(fit_of(base, folder / "fit", settings), Blow(signal.SIGKILL, after='"save"', seconds=0.004))

The parent imports everything once and forks a child, in a process group of its own, for every attempt; a kill costs
milliseconds. It starts no thread and computes nothing, or its children would wait for threads that they do not have.
What a child does (`faults_victims.py`) it tells on its standard output; the parent reads along, so that a moment can
be "so many seconds after it has told this".
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from children import python_path

_HELPERS = Path(__file__).parent
_HARMLESS = {"python", "jemalloc_bg_thd", "polars-ooc-clea"}
"""Threads of the parent: its own, and those that polars starts when it is imported, which a child does without."""
_LONGEST = 100.0
"""Seconds after which a child counts as hanging."""


@dataclass(frozen=True)
class Blow:
    """A signal for the whole group, `seconds` after the child has told `after` for the `time`-th time (or began)."""

    signal: int
    seconds: float = 0.0
    after: str = ""
    time: int = 1


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    `code` is its exit code, or the negative number of the signal that ended it; None for one that was only stopped
    (SIGSTOP) and lives on. `struck` says that the blow met it alive, `seconds` how long it lived after that (or in all
    without a blow). `told` are its lines up to its end, `error` what it wrote to standard error.
    """

    pid: int
    code: int | None
    struck: bool
    seconds: float
    told: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def facts(self) -> list[dict[str, object]]:
        """The lines that are JSON objects; one that was cut by the end is left out."""
        found: list[dict[str, object]] = []
        for line in self.told:
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    @property
    def inside_save(self) -> bool:
        """The last that it told of saving was that it began."""
        saves = [fact["at"] for fact in self.facts if fact.get("at") in ("save", "saved")]
        return bool(saves) and saves[-1] == "save"

    def all(self, at: str) -> list[dict[str, object]]:
        """What it told of one kind."""
        return [fact for fact in self.facts if fact.get("at") == at]


class KillRunner:
    """The test's end: asks the parent for children."""

    def __init__(self, folder: Path) -> None:
        environment = os.environ | {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            [sys.executable, __file__, str(folder / "stderr.txt")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(timeout=30)
        if self._parent.stdout is not None:
            self._parent.stdout.close()

    def do(self, work: Mapping[str, object], blow: Blow | None = None) -> Outcome:
        """Do a work of `faults_victims.py` in a child, under a blow if one is given."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        question = {"work": work, "blow": None if blow is None else asdict(blow)}
        print(json.dumps(question), file=self._parent.stdin, flush=True)
        answer = self._parent.stdout.readline()
        assert answer, "the parent of the children is gone"
        return Outcome(**json.loads(answer))


# ------------------------------------------------------------------------------------------------ the parent's end


def _serve(errors: Path) -> None:
    from faults_victims import WORKS

    stopped: list[int] = []
    for line in sys.stdin:
        question = json.loads(line)
        work = dict(question["work"])
        blow = None if question["blow"] is None else Blow(**question["blow"])
        assert _threads() <= _HARMLESS, f"{_threads()}: a thread would be missing in the children"
        for pid in stopped:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _be_child(WORKS[work.pop("kind")], work, writing, errors)
        os.close(writing)
        with contextlib.suppress(OSError):  # the child does the same; whoever is first
            os.setpgid(pid, pid)
        outcome = _watch(pid, reading, blow, errors)
        if outcome.code is None:
            stopped.append(pid)
        print(json.dumps(asdict(outcome)), flush=True)


def _threads() -> set[str]:
    """Names of this process's threads, the first one called python."""
    own = str(os.getpid())
    return {
        "python" if each.name == own else (each / "comm").read_text().strip()
        for each in Path("/proc/self/task").iterdir()
    }


def _be_child(work: object, facts: Mapping[str, object], out: int, errors: Path) -> None:
    code = 1
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        os.dup2(out, 1)
        os.dup2(os.open(errors, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644), 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        assert callable(work)
        code = work(**facts)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _watch(pid: int, reading: int, blow: Blow | None, errors: Path) -> Outcome:
    """Read what the child tells, strike when the moment has come, and wait for its end."""
    began = time.monotonic()
    moment = began + blow.seconds if blow is not None and not blow.after else None
    struck_at, text = None, ""
    while time.monotonic() - began < _LONGEST:
        wait = _LONGEST if moment is None or struck_at is not None else max(0.0, moment - time.monotonic())
        ready, _, _ = select.select([reading], [], [], wait)
        if ready:
            piece = os.read(reading, 1 << 16)
            if not piece:
                break
            new = piece.decode("utf-8", "replace")
            text += new
            if blow is not None and moment is None and text.count(blow.after) >= blow.time:
                moment = time.monotonic() + blow.seconds
        elif struck_at is None and blow is not None:
            struck_at = time.monotonic()
            os.killpg(pid, blow.signal)
            if blow.signal == signal.SIGSTOP:
                os.close(reading)
                return Outcome(pid, None, True, 0.0, text.splitlines())
    else:
        os.killpg(pid, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - (struck_at or began)
    told = text if text.endswith("\n") or "\n" not in text else text[: text.rindex("\n")]
    struck = struck_at is not None and (blow is None or blow.signal != signal.SIGKILL or code == -signal.SIGKILL)
    return Outcome(pid, code, struck, seconds, told.splitlines(), errors.read_text("utf-8", "replace"))


if __name__ == "__main__":
    sys.path.insert(0, str(_HELPERS))
    _serve(Path(sys.argv[1]))
    os._exit(0)  # nothing to tidy up, and that takes seconds
