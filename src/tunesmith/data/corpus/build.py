"""A corpus larger than memory becomes clean shards: the whole pass, read it first.

    plan        what the recipe asks for and the pass cannot do is refused by name (plan.py)
    pieces      the files (inputs.py) are cut into pieces that fit into memory (pieces.py)
    parts       each piece is read and cleaned, and its rows are marked by what duplicates are found by (part.py)
    masks       personal data get placeholders that mean the same in all parts (masks.py)
    decision    of all rows, from the marks alone: which stay (decide.py)
    shards      rows that stay go to the split that their own words or their group name, and are written (shards.py)

Parts are folders that appear whole, and the corpus is one more. A build that is killed goes on with the parts that are
there, if recipe, files and versions are the same, and else begins anew; the result has the same bytes.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import (
    MANIFEST,
    disk_errors,
    is_whole,
    read_json,
    remove_folder,
    remove_rubbish,
    verify_folder,
    write_json,
)
from tunesmith.core.ledger import Ledger
from tunesmith.core.process import available_cores
from tunesmith.data.corpus.decide import decide
from tunesmith.data.corpus.finish import REPORT, write_corpus
from tunesmith.data.corpus.inputs import Input, inputs_of, unpacked
from tunesmith.data.corpus.lock import held
from tunesmith.data.corpus.masks import mask_part, number_values
from tunesmith.data.corpus.part import Cleaned, make_part, read_marks
from tunesmith.data.corpus.pieces import PIECE_BYTES, Piece, pieces_of
from tunesmith.data.corpus.plan import Plan, refuse
from tunesmith.data.corpus.report import CorpusReport, facts_of
from tunesmith.data.corpus.work import Build, in_threads
from tunesmith.data.formats.read import Reading
from tunesmith.data.licences import check_licences
from tunesmith.data.pii.apply import Held
from tunesmith.data.pii.mask import Masker
from tunesmith.data.tidy import Cleaner, Needs
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.goal import ComplianceSpec

PLAN = "plan.json"


def build_corpus(
    spec: DataSpec,
    recipe_folder: Path,
    out: Path,
    workers: int = 0,
    piece_bytes: int = PIECE_BYTES,
    compliance: ComplianceSpec | None = None,
) -> CorpusReport:
    """Build `out` from the sources of a recipe: a folder of shards for each split, and the ledger.

    Args:
        workers: pieces that are worked on at a time; 0 is one a core.
        compliance: licences that count.

    Errors: data.corpus_exists, data.source_changed; those of `refuse`, `check_licences`, `Cleaner`, `inputs_of`,
    `unpacked`, `pieces_of`, `read_piece`, `held` and `new_folder`.
    """
    refuse(spec)
    check_licences(spec.sources, compliance)
    Cleaner(spec.clean, recipe_folder, Ledger(), Needs())  # what it lacks is said before anything is read
    inputs = inputs_of(spec.sources, recipe_folder)
    folder = out.with_name(f"{out.name}.building")
    build = Build(spec, compliance, recipe_folder, folder, out, inputs, piece_bytes, workers or available_cores())
    plan = build.plan()
    if out.exists():
        return _report_of(build, plan)
    with held(folder):
        if out.exists():  # another one was just done
            return _report_of(build, plan)
        report = _pass(build, plan)
        remove_folder(folder)
    return report


def _pass(build: Build, plan: Plan) -> CorpusReport:
    clean, clock = build.spec.clean, _Clock()
    _start(build, plan)
    build = replace(build, pieces=_cut(build))
    clock.lap("pieces")
    _make_parts(build)
    clock.lap("parts")
    masker = _mask(build)
    clock.lap("masks")
    _refuse_changed(build, plan)
    marks = [read_marks(part) for part in build.parts]
    with ThreadPoolExecutor(build.workers) as pool:
        decision = decide(build.parts, marks, clean.exact_duplicates, clean.near_duplicates, pool.map)
    clock.lap("decision")
    report = write_corpus(build, plan, marks, decision, masker)
    clock.lap("shards")
    return replace(report, seconds=clock.seconds)


def _report_of(build: Build, plan: Plan) -> CorpusReport:
    """The report of a corpus that is there already. Errors: data.corpus_exists where it is another one."""
    if not (build.out / MANIFEST).exists() or verify_folder(build.out).get("plan") != plan:
        raise TunesmithError("data.corpus_exists", path=str(build.out))
    remove_rubbish(build.out.parent)
    if build.folder.exists():
        remove_folder(build.folder)
    return CorpusReport(**read_json(build.out / REPORT))  # type: ignore[arg-type]  # as `_write` wrote it


def _start(build: Build, plan: Plan) -> None:
    """The folder to build in, with what an earlier start for the same plan has done."""
    folder = build.folder
    with disk_errors(folder):
        remove_rubbish(folder.parent)
        remove_rubbish(folder)
        if not _same_plan(folder, plan):
            (folder / PLAN).unlink(missing_ok=True)  # first: without it nothing here counts
            for part in sorted(folder.iterdir()):
                remove_folder(part)
            write_json(folder / PLAN, plan)


def _same_plan(folder: Path, plan: Plan) -> bool:
    try:
        return read_json(folder / PLAN) == plan
    except TunesmithError:
        return False


def _cut(build: Build) -> tuple[Piece, ...]:
    """The pieces of all files; compressed ones are unpacked for that."""

    def opened(numbered: tuple[int, Input]) -> Input:
        number, each = numbered
        return unpacked(each, build.folder / f"unpacked-{number:05d}")

    return tuple(pieces_of(in_threads(opened, enumerate(build.inputs), build.workers), build.piece_bytes))


def _make_parts(build: Build) -> None:
    reading = Reading("text", build.spec.split.group_by, build.spec.split.seed)

    def make(part: tuple[Path, Piece]) -> None:
        folder, piece = part
        if not is_whole(folder):
            make_part(folder, piece, build.spec.sources[piece.source], reading, clean)

    def clean(frame: pl.DataFrame, ledger: Ledger) -> Cleaned:
        cleaner = Cleaner(build.spec.clean, build.recipe_folder, ledger, Needs())
        frame, found, _ = cleaner.before_masks("train", frame)
        masks = cleaner.personal is not None and cleaner.personal.spec.action == "mask"
        return Cleaned(frame, found if masks else Held(), facts_of(cleaner))

    in_threads(make, zip(build.parts, build.pieces, strict=True), build.workers)


def _mask(build: Build) -> Masker:
    """Every part with its masks; who put them in knows what they stand for."""
    masker, wanted = number_values(build.parts), build.spec.clean.pii
    if wanted is not None:
        in_threads(lambda part: mask_part(part, wanted, masker), build.parts, build.workers)
    return masker


def _refuse_changed(build: Build, plan: Plan) -> None:
    """Errors: data.source_changed where a file is not the one any more that the parts began with."""
    try:
        if build.plan() == plan:
            return
    except OSError:  # it is not even there
        pass
    raise TunesmithError("data.source_changed", path=", ".join(source.address for source in build.spec.sources))


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
