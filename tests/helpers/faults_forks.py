"""One warmed Python with the file shim before it, from which a child is forked for every fault.

The parent imports everything and prepares the scenarios of `faults_files.py` once; a child costs milliseconds. Parent
and test talk in lines of JSON. The parent never starts a thread, or children would wait for threads they do not have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from children import python_path
from faults_shim import NO_FAULT, Fault, Shim


@dataclass(frozen=True)
class Outcome:
    """How a child ended: `signal` that killed it, or the code and facts of its error, or neither."""

    signal: int = 0
    operations: int = 0
    code: str = ""
    facts: dict[str, object] = field(default_factory=dict)
    trace: str = ""
    """Of an error that has no code."""

    @property
    def well(self) -> bool:
        """Ended as if nothing had happened."""
        return not (self.signal or self.code or self.trace)


class Forks:
    """The test's end: asks the parent for children."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.folder = folder
        environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.close()
        self._parent.kill()  # it holds nothing, and taking torch down takes seconds
        self._parent.wait()
        self._parent.stdout.close()

    def run(self, scenario: str, part: str, fault: Fault = NO_FAULT) -> Outcome:
        """Do a part of a scenario in a child under a fault: prepare, work or recover."""
        return Outcome(**self._ask({"scenario": scenario, "part": part, "fault": asdict(fault)}))

    def _ask(self, question: dict[str, object]) -> dict[str, object]:
        assert self._parent.stdin is not None and self._parent.stdout is not None
        print(json.dumps(question), file=self._parent.stdin, flush=True)
        answer = self._parent.stdout.readline()
        assert answer, "the parent of the children is gone"
        value: dict[str, object] = json.loads(answer)
        return value


def _serve(folder: Path) -> None:
    """The parent's end."""
    from faults_files import SCENARIOS, Scenario

    made: dict[str, Scenario] = {}
    shim = Shim(folder)
    for line in sys.stdin:
        question = json.loads(line)
        name = question["scenario"]
        if name not in made:
            made[name] = SCENARIOS[name](folder / name)
        outcome = _child(shim, made[name], question["part"], Fault(**question["fault"]))
        print(json.dumps(asdict(outcome)), flush=True)


def _child(shim: Shim, scenario: object, part: str, fault: Fault) -> Outcome:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.dup2(2, 1)  # the parent's answers stay its own
        outcome = _try(shim, scenario, part, fault)
        with os.fdopen(writing, "w") as stream:
            json.dump(asdict(outcome), stream)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        told = stream.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return Outcome(signal=os.WTERMSIG(status), operations=fault.number)
    return Outcome(**json.loads(told))


def _try(shim: Shim, scenario: object, part: str, fault: Fault) -> Outcome:
    from tunesmith.core.errors import TunesmithError

    shim.arm(fault)
    try:
        getattr(scenario, part)()
    except TunesmithError as error:
        return Outcome(operations=shim.disarm(), code=error.code, facts=dict(error.facts))
    except BaseException:
        operations = shim.disarm()
        return Outcome(operations=operations, trace=traceback.format_exc())
    return Outcome(operations=shim.disarm())


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
