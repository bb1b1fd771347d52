"""A program run by two ranks of a gloo group, forked from one Python that has imported what they need.

Starting a Python with torch and transformers takes longer than the fits of a tiny model that a test wants of it, so
there is one start and not two. As in `faults_ranks.py`, the parent never starts a thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path


class TwoRanks:
    """Both ranks of a program, under way. They find its arguments in `sys.argv[1:]`, as with `python -c`.

    Args:
        options: of the interpreter, such as filters of warnings.
    """

    def __init__(self, program: str, *arguments: str, options: Sequence[str] = ()) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen([sys.executable, *options, __file__, program, *arguments], env=environment)

    def ended(self) -> list[int]:
        """The exit codes of both, once they have ended."""
        told = self._parent.wait(timeout=100)
        return [told // 16, told % 16]


def _child(program: str, arguments: Sequence[str], rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    sys.argv = ["-c", *arguments]
    code = 1
    try:
        exec(compile(program, "<rank>", "exec"), {"__name__": "__main__"})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _main(program: str, *arguments: str) -> int:
    import fits  # noqa: F401 - loads all that the children use
    from faults_ranks import free_port

    import tunesmith.runtime.distributed  # noqa: F401

    port = free_port()
    children = [_child(program, arguments, rank, port) for rank in range(2)]
    first, second = (int(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0) for child in children)
    return 16 * first + second


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
