"""A corpus on a Ray cluster of this machine, beside the same one built by threads; tells what happened as JSON.

    python tests/helpers/corpus_on_ray.py FOLDER

A process of its own: Ray starts others, and the suite's ban on sockets must not reach into it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file
from tunesmith.data.corpus.build import build_corpus
from tunesmith.data.corpus.executors import Executor, InThreads
from tunesmith.data.corpus.on_ray import LOCAL, OnRay, on_ray
from tunesmith.recipe.specs.data import DataSpec

PIECE = 4000
CLEAN = {
    "near_duplicates": 0.7,
    "repair": {"rules": ["html"]},
    "filter": {"rules": ["too_short", "repetition"]},
    "pii": "mask",
}


class Stops:
    """Threads that are stopped at a step: pieces, parts, masks, hashes of sources, similarities, shards."""

    def __init__(self, step: int) -> None:
        self._left = step

    def share(self, folder: Path) -> None:
        """Nothing to do."""

    def map(self, work: Callable[[object], object], items: Iterable[object]) -> list[object]:
        """As threads do, up to that step, of which half is done."""
        listed, self._left = list(items), self._left - 1
        if self._left:
            return InThreads(2).map(work, listed)
        InThreads(2).map(work, listed[: len(listed) // 2])
        raise KeyboardInterrupt


def build(folder: Path, out: str, executor: Executor, source: str = "rows.jsonl") -> dict[str, str]:
    """The hashes of the files of a corpus."""
    spec = DataSpec.model_validate({"rows": "text", "sources": [{"path": source}], "clean": CLEAN})
    build_corpus(spec, folder, folder / out, executor, piece_bytes=PIECE)
    files = (path for path in sorted((folder / out).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder / out)): sha256_file(path) for path in files}


def code_of(work: Callable[[], object]) -> str:
    """The code of the error that comes."""
    try:
        work()
    except TunesmithError as error:
        return f"{error.code} {sorted(error.facts)}"
    return "none"


def dies_once(mark: Path) -> str:
    """The first process that runs this is gone in the middle of it."""
    if not mark.exists():
        mark.write_text("was here")
        os.kill(os.getpid(), 9)
    return "done"


def dies(_: Path) -> None:
    """No process survives this."""
    os.kill(os.getpid(), 9)


def stopped_and_ended(folder: Path, step: int, executor: Executor) -> dict[str, str]:
    """A build that threads began and the cluster ended."""
    try:
        build(folder, f"stopped-{step}", Stops(step))  # type: ignore[arg-type]
    except KeyboardInterrupt:
        assert (folder / f"stopped-{step}.building").is_dir()
    return build(folder, f"stopped-{step}", executor)


def main(folder: Path) -> None:
    """Every case on one cluster."""
    told: dict[str, object] = {"threads": build(folder, "threads", InThreads(1))}
    with on_ray(LOCAL) as executor:
        told["ray"] = build(folder, "ray", executor)
        told["ended"] = {step: stopped_and_ended(folder, step, executor) for step in (2, 3, 5)}
        told["broken"] = code_of(lambda: build(folder, "broken", executor, "latin.jsonl"))
        told["dies_once"] = executor.map(dies_once, [folder / "mark-1", folder / "mark-2"])
        told["dies"] = code_of(lambda: executor.map(dies, [folder]))
        told["file"] = code_of(lambda: executor.map(Path.read_bytes, [folder / "nowhere.jsonl"]))
        for name, version in (("tunesmith", "9.9"), ("no-such-package", "1.0")):
            told[name] = code_of(lambda wanted={name: version}: OnRay(wanted).map(dies, [folder]))  # type: ignore[misc]
        executor.share(folder)
        assert executor.token is not None
        executor.token.unlink()  # as a machine would find it that has another folder of this name
        told["folder"] = code_of(lambda: executor.map(dies, [folder]))
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
