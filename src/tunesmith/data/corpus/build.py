"""A corpus larger than memory becomes clean shards: the whole pass, read it first.

    plan        what the recipe asks for and the pass cannot do is refused by name (plan.py)
    pieces      the files (inputs.py) are cut into pieces that fit into memory (pieces.py)
    parts       each piece is read and cleaned, and its rows are marked by what duplicates are found by (part.py)
    masks       personal data get placeholders that mean the same in all parts (masks.py)
    decision    of all rows, from the marks alone: which stay (decide.py)
    shards      rows that stay go to the split that their own words or their group name, and are written (shards.py)

Parts are folders that appear whole, and the corpus is one more. A build that is killed goes on with the parts that are
there, if recipe, files and versions are the same, and else begins anew; the result has the same bytes. The name of a
part says of which plan it is, so that no worker that outlived an older build can slip one of that in.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import (
    ASIDE,
    MANIFEST,
    disk_errors,
    read_json,
    remove_folder,
    remove_rubbish,
    verify_folder,
    write_json,
)
from tunesmith.core.ledger import Ledger
from tunesmith.core.lock import locks_stay_here
from tunesmith.data.corpus.decide import decide
from tunesmith.data.corpus.executors import Executor, InThreads
from tunesmith.data.corpus.finish import REPORT, write_corpus
from tunesmith.data.corpus.inputs import Input, inputs_of, unpacked
from tunesmith.data.corpus.lock import LOCK_FILE, held
from tunesmith.data.corpus.masks import mask_part, number_values, with_own_values
from tunesmith.data.corpus.part import Cleaned, is_part, make_part, read_fates, read_marks
from tunesmith.data.corpus.pieces import PIECE_BYTES, Piece, pieces_of
from tunesmith.data.corpus.plan import Plan, refuse
from tunesmith.data.corpus.report import CorpusReport, facts_of
from tunesmith.data.corpus.stated import source_hashes
from tunesmith.data.corpus.work import Build, digest_of
from tunesmith.data.defects import spoken
from tunesmith.data.formats.read import Reading
from tunesmith.data.licences import check_licences
from tunesmith.data.pii.apply import Held
from tunesmith.data.pii.mask import Masker
from tunesmith.data.tidy import Cleaner, Needs
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.clean import PiiSpec
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.goal import ComplianceSpec

PLAN = "plan.json"
_OURS = (PLAN, LOCK_FILE, "part-", "unpacked-", "shared-", ASIDE, ".nfs")
"""How all names begin in a folder that is built in; NFS keeps a removed file that is open under the last one."""


def build_corpus(
    spec: DataSpec,
    recipe_folder: Path,
    out: Path,
    executor: Executor | None = None,
    piece_bytes: int = PIECE_BYTES,
    compliance: ComplianceSpec | None = None,
) -> CorpusReport:
    """Build `out` from the sources of a recipe: a folder of shards for each split, and the ledger.

    Args:
        executor: where the parts are worked on; a thread a core where none is given.
        compliance: licences that count.

    Errors: data.corpus_exists, data.source_changed, data.empty_file, data.no_rows, corpus.inside_source,
    corpus.not_ours; those of `refuse`, `check_licences`, `Cleaner`, `inputs_of`,
    `unpacked`, `pieces_of`, `read_piece`, `held`, `new_folder` and the executor.
    """
    out, recipe_folder = out.absolute(), recipe_folder.absolute()  # other processes start elsewhere
    refuse(spec)
    check_licences(spec.sources, compliance)
    Cleaner(spec.clean, recipe_folder, Ledger(), Needs())  # what it lacks is said before anything is read
    inputs = inputs_of(spec.sources, recipe_folder)
    folder = out.with_name(f"{out.name}.building")
    build = Build(spec, compliance, recipe_folder, folder, out, inputs, piece_bytes, executor or InThreads())
    _refuse_place(build)
    plan = build.plan()
    build = replace(build, digest=digest_of(plan))
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
    hashes = source_hashes(build.spec.sources, build.recipe_folder, build.executor)
    _refuse_changed(build, plan)  # again: so the hashes are of the bytes that the parts were made of
    marks = [read_marks(part) for part in build.parts]
    _refuse_nothing(build, sum(len(each.sizes) for each in marks))
    decision = decide(build.parts, marks, clean.exact_duplicates, clean.near_duplicates, build.executor)
    clock.lap("decision")
    report = write_corpus(build, plan, decision, masker, hashes)
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
        remove_rubbish(folder, alone=not locks_stay_here(folder))
        if not _same_plan(folder, plan):
            (folder / PLAN).unlink(missing_ok=True)  # first: without it nothing here counts
            for part in sorted(path for path in folder.iterdir() if path.name != LOCK_FILE):
                remove_folder(part)
            write_json(folder / PLAN, plan)
    build.executor.share(folder)


def _same_plan(folder: Path, plan: Plan) -> bool:
    try:
        return read_json(folder / PLAN) == plan
    except TunesmithError:
        return False


def _cut(build: Build) -> tuple[Piece, ...]:
    """The pieces of all files; compressed ones are unpacked for that."""
    opened = build.executor.map(partial(_open, build.folder, build.digest), enumerate(build.inputs))
    return tuple(pieces_of(opened, build.piece_bytes))


def _open(folder: Path, digest: str, numbered: tuple[int, Input]) -> Input:
    number, each = numbered
    return unpacked(each, folder / f"unpacked-{number:05d}-{digest}")


def _make_parts(build: Build) -> None:
    make = partial(_make, build.spec, build.recipe_folder)
    build.executor.map(make, zip(build.parts, build.pieces, strict=True))


def _make(spec: DataSpec, recipe_folder: Path, part: tuple[Path, Piece]) -> None:
    """One part, unless it is there. What it takes can be sent to another machine."""
    folder, piece = part

    def clean(frame: pl.DataFrame, ledger: Ledger) -> Cleaned:
        cleaner = Cleaner(spec.clean, recipe_folder, ledger, Needs())
        frame, found, _ = cleaner.before_masks("train", frame)
        masks = cleaner.personal is not None and cleaner.personal.spec.action == "mask"
        return Cleaned(frame, found if masks else Held(), facts_of(cleaner))

    if not is_part(folder):
        reading = Reading("text", spec.split.group_by, spec.split.seed)
        make_part(folder, piece, spec.sources[piece.source], reading, clean)


def _mask(build: Build) -> Masker:
    """Every part with its masks; who put them in knows what they stand for."""
    masker, wanted = number_values(build.parts), build.spec.clean.pii
    if wanted is not None:
        build.executor.map(partial(_mask_part, wanted), with_own_values(build.parts, masker))
    return masker


def _mask_part(spec: PiiSpec, part: tuple[Path, Masker]) -> None:
    folder, masker = part
    mask_part(folder, spec, masker)


def _refuse_changed(build: Build, plan: Plan) -> None:
    """Errors: data.source_changed where a file is not the one any more that the parts began with."""
    try:
        if build.plan() == plan:
            return
    except OSError:  # it is not even there
        pass
    raise TunesmithError("data.source_changed", path=", ".join(source.address for source in build.spec.sources))


def _refuse_nothing(build: Build, left: int) -> None:
    """Errors: data.empty_file where no row was read, data.no_rows where none is left."""
    if left:
        return
    fates = Counter[str]()
    for part in build.parts:
        fates.update(read_fates(part)["reason"])
    if not fates:
        raise TunesmithError("data.empty_file", path=", ".join(source.address for source in build.spec.sources))
    (reason, _), read = fates.most_common(1)[0], sum(fates.values())
    raise TunesmithError("data.no_rows", read=read, reason=spoken(reason))


def _refuse_place(build: Build) -> None:
    """Errors: corpus.inside_source where the corpus would become a source of itself; corpus.not_ours where the folder
    to build in holds what no build has made, and would be cleared.
    """
    for source in build.spec.sources:
        place = local_path(source, build.recipe_folder).resolve()
        if build.out.resolve().is_relative_to(place) and place.is_dir():
            raise TunesmithError("corpus.inside_source", path=str(build.out), source=str(place))
    if build.folder.is_dir():
        for path in sorted(build.folder.iterdir()):
            if not path.name.startswith(_OURS):
                raise TunesmithError("corpus.not_ours", path=str(path), folder=str(build.folder))


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
