"""A corpus larger than memory becomes clean shards: the whole pass, read it first.

    pieces      the files are cut into pieces that fit into memory (pieces.py)
    parts       each piece is read and cleaned, and its rows are marked by what duplicates are found by (part.py)
    decision    of all rows, from the marks alone: which stay (decide.py)
    shards      rows that stay go to the split that their own words or their group name, and are written (shards.py)

Parts are folders that appear whole, and the corpus is one more. A build that is killed goes on with the parts that are
there, if recipe, files and versions are the same, and else begins anew; the result has the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import (
    MANIFEST,
    disk_errors,
    is_whole,
    make_folders,
    new_folder,
    read_json,
    remove_folder,
    remove_rubbish,
    verify_folder,
    write_json,
)
from tunesmith.core.ledger import STILL_USED, Ledger
from tunesmith.core.process import available_cores
from tunesmith.core.types import SPLITS
from tunesmith.data.clean import blank_reason, normalize
from tunesmith.data.corpus.decide import Decision, decide
from tunesmith.data.corpus.part import Clean, Marks, make_part, read_fates, read_marks, read_rows
from tunesmith.data.corpus.pieces import PIECE_BYTES, Piece, pieces_of
from tunesmith.data.corpus.shards import LEDGER, PartCounts, PartPlace, write_shards
from tunesmith.data.formats.read import Reading
from tunesmith.data.near import Rows
from tunesmith.recipe.specs.base import Spec
from tunesmith.recipe.specs.data import CleanSpec, DataSpec, SourceSpec, SplitSpec

PLAN, REPORT = "plan.json", "report.json"
_FORM = 2
"""Raised when what a part holds changes: parts of an older program are then made again."""

_KNOWN: dict[type[Spec], frozenset[str]] = {
    DataSpec: frozenset({"task", "rows", "sources", "clean", "split"}),
    CleanSpec: frozenset({"normalize", "exact_duplicates", "near_duplicates"}),
    SplitSpec: frozenset({"train", "validation", "test", "group_by", "seed"}),
    SourceSpec: frozenset({"path", "name", "layout", "columns", "licence"}),
}
"""Settings that the pass heeds; every other one is refused where a recipe states it."""

Plan = dict[str, object]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class CorpusReport:
    """What a build did: rows by fate and reason, rows by split, bytes read, and seconds of each step."""

    fates: dict[str, int]
    splits: dict[str, int]
    bytes: int
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Build:
    spec: DataSpec
    folder: Path
    pieces: tuple[Piece, ...]
    workers: int

    def parts(self) -> list[Path]:
        return [self.folder / f"part-{place:05d}" for place in range(len(self.pieces))]


def build_corpus(
    spec: DataSpec, recipe_folder: Path, out: Path, workers: int = 0, piece_bytes: int = PIECE_BYTES
) -> CorpusReport:
    """Build `out` from the sources of a recipe: a folder of shards for each split, and the ledger.

    Args:
        workers: pieces that are worked on at a time; 0 is one a core.

    Errors: data.corpus_rows, data.corpus_exists, those of `pieces_of`, `read_piece` and `new_folder`.
    """
    _refuse(spec)
    pieces = tuple(pieces_of(spec.sources, recipe_folder, piece_bytes))
    plan = _plan(spec, pieces)
    if out.exists():
        return _report_of(out, plan)
    build = _Build(spec, out.with_name(f"{out.name}.building"), pieces, workers or available_cores())
    _start(build, plan)
    clock = _Clock()
    _make_parts(build)
    clock.lap("parts")
    marks = [read_marks(folder) for folder in build.parts()]
    with ThreadPoolExecutor(build.workers) as pool:
        clean = spec.clean
        decision = decide(build.parts(), marks, clean.exact_duplicates, clean.near_duplicates, pool.map)
    clock.lap("decision")
    report = _write(build, marks, decision, out, plan)
    remove_folder(build.folder)
    clock.lap("shards")
    return replace(report, seconds=clock.seconds)


def _refuse(spec: DataSpec) -> None:
    if spec.rows != "text":
        raise TunesmithError("data.corpus_rows", rows=spec.rows)
    parts: dict[str, Spec] = {"data": spec, "data.clean": spec.clean, "data.split": spec.split}
    parts |= {f"data.sources.{place}": source for place, source in enumerate(spec.sources)}
    for place, part in parts.items():
        for name, known in type(part).model_fields.items():
            default = known.get_default(call_default_factory=True)
            if name not in _KNOWN[type(part)] and getattr(part, name) != default:
                raise TunesmithError("data.corpus_setting", setting=f"{place}.{name}")


def _plan(spec: DataSpec, pieces: Iterable[Piece]) -> Plan:
    """What the parts depend on. Files count as the same while their size and their time of change are."""
    files = {str(piece.path): [piece.path.stat().st_size, piece.path.stat().st_mtime_ns] for piece in pieces}
    ranges = [[str(piece.path), piece.start, piece.end] for piece in pieces]
    digest = hashlib.sha256(json.dumps([spec.model_dump(mode="json"), files, ranges]).encode()).hexdigest()
    return {"form": _FORM, "polars": pl.__version__, "numpy": np.__version__, "inputs": digest}


def _report_of(out: Path, plan: Plan) -> CorpusReport:
    """The report of a corpus that is there already. Errors: data.corpus_exists where it is another one."""
    if not (out / MANIFEST).exists() or verify_folder(out).get("plan") != plan:
        raise TunesmithError("data.corpus_exists", path=str(out))
    remove_rubbish(out.parent)
    _remove(out.with_name(f"{out.name}.building"))
    return CorpusReport(**read_json(out / REPORT))  # type: ignore[arg-type]  # as `_write` wrote it


def _start(build: _Build, plan: Plan) -> None:
    """A folder to build in: the one of an earlier start when it was for the same plan."""
    with disk_errors(build.folder):
        make_folders(build.folder.parent)
        remove_rubbish(build.folder.parent)
        if build.folder.exists() and not _same_plan(build.folder, plan):
            _remove(build.folder)
        if not build.folder.exists():
            make_folders(build.folder)
            write_json(build.folder / PLAN, plan)
        remove_rubbish(build.folder)


def _same_plan(folder: Path, plan: Plan) -> bool:
    try:
        return read_json(folder / PLAN) == plan
    except TunesmithError:
        return False


def _remove(folder: Path) -> None:
    if folder.exists():
        remove_folder(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _make_parts(build: _Build) -> None:
    reading = Reading("text", build.spec.split.group_by, build.spec.split.seed)

    def make(part: tuple[Path, Piece]) -> None:
        folder, piece = part
        if not is_whole(folder):
            make_part(folder, piece, build.spec.sources[piece.source], reading, _cleaner(build.spec))

    _in_threads(make, zip(build.parts(), build.pieces, strict=True), build.workers)


def _cleaner(spec: DataSpec) -> Clean:
    """The cleaning of one piece."""

    def clean(frame: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
        if not spec.clean.normalize:
            return frame
        frame, _ = normalize(frame)
        blank = frame.select("row", blank_reason()).drop_nulls("reason")
        for (reason,), rows in blank.group_by("reason", maintain_order=True):
            ledger.decide(rows["row"], "dropped", str(reason))
        return frame.join(blank, on="row", how="anti", maintain_order="left")

    return clean


def _write(build: _Build, marks: Sequence[Marks], decision: Decision, out: Path, plan: Plan) -> CorpusReport:
    """The folder of the corpus, whole or not at all."""
    places, numbers = _places(build)

    def write(part: tuple[Path, PartPlace, Marks]) -> PartCounts:
        return write_shards(aside, *part, decision, numbers, build.spec.split)

    with new_folder(out, plan=plan) as aside:
        for name in (*SPLITS, LEDGER):
            (aside / name).mkdir()
        counts = _in_threads(write, zip(build.parts(), places, marks, strict=True), build.workers)
        fates: Counter[str] = sum((each.fates for each in counts), Counter())
        splits: Counter[str] = sum((each.splits for each in counts), Counter())
        read = sum(piece.end - piece.start for piece in build.pieces)
        report = CorpusReport(dict(sorted(fates.items())), {name: splits[name] for name in SPLITS}, read)
        if sum(report.splits.values()) != sum(rows for fate, rows in fates.items() if fate.split(":")[0] in STILL_USED):
            raise TunesmithError("data.corpus_unbalanced", path=str(build.folder))
        write_json(aside / REPORT, {**asdict(report), "seconds": {}})
    return report


def _places(build: _Build) -> tuple[list[PartPlace], Rows]:
    """Where each part stands among all, and the number among all rows read of each row that cleaning left."""
    places: list[PartPlace] = []
    numbers = [np.empty(0, np.int64)]
    read = kept = 0
    of_source: Counter[int] = Counter()
    for number, (part, piece) in enumerate(zip(build.parts(), build.pieces, strict=True)):
        source = build.spec.sources[piece.source]
        places.append(PartPlace(number, source.title, read, of_source[piece.source], kept))
        rows = read_rows(part)["row"].to_numpy() + read
        numbers.append(rows)
        count = len(read_fates(part))
        read, kept = read + count, kept + len(rows)
        of_source[piece.source] += count
    return places, np.concatenate(numbers)


def _in_threads(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> list[Result]:
    """Every item through a function, in their order; the first error stops what has not begun."""
    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(work, item) for item in items]
        try:
            return [each.result() for each in running]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class _Clock:
    """Seconds of the steps so far."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, step: str) -> None:
        """A step is over."""
        now = time.perf_counter()
        self.seconds[step] = round(now - self._since, 3)
        self._since = now
