"""Points of the matrix on two processes that share gradients over gloo, forked from one warmed Python.

As in `faults_ranks.py`: the parent never starts a thread, each line of JSON that it reads is a point for two ranks, and
what they found lies in the point's folder.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from faults_ranks import WarmParent
from matrix_axes import Point

_HELPERS = Path(__file__).parent


class Ranks(WarmParent):
    """Points tried by two ranks."""

    def __init__(self) -> None:
        super().__init__(__file__)

    def check(self, point: Point, bases: Path, folder: Path) -> str:
        """The result of a point, the same on both ranks."""
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {"point": asdict(point), "bases": str(bases), "folder": str(folder)}
        codes = self.ask(wanted)
        told = [Path(folder, f"rank{rank}.txt") for rank in range(2)]
        results = [path.read_text("utf-8") if path.exists() else "nothing" for path in told]
        assert codes == [0, 0] and results[0] == results[1], "\n".join(results)
        return results[0]


def _serve() -> None:
    """The parent's end."""
    import matrix_check  # noqa: F401 - loads all that the children use
    from faults_ranks import free_port

    import tunesmith.runtime.distributed  # noqa: F401

    for line in sys.stdin:
        port = free_port()
        children = [_child(json.loads(line), rank, port) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


def _child(wanted: dict[str, object], rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.dup2(2, 1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    folder = Path(str(wanted["folder"]))
    code, told = 1, "nothing"
    try:
        told = _check(Point(**wanted["point"]), Path(str(wanted["bases"])), folder)  # type: ignore[arg-type]
        code = 0
    except BaseException:
        told = traceback.format_exc()
    finally:
        (folder / f"rank{rank}.txt").write_text(told, "utf-8")
        os._exit(code)


def _check(point: Point, bases: Path, folder: Path) -> str:
    from matrix_check import check_point

    from tunesmith.recipe.specs.runtime import RuntimeSpec
    from tunesmith.runtime.distributed import DistributedRuntime

    runtime = DistributedRuntime(RuntimeSpec(kind="distributed", device="cpu", threads=1))
    result = check_point(point, bases, folder, runtime)
    runtime.close()
    return result


if __name__ == "__main__":
    _serve()
