"""From the recipe's sources to clean splits: read, normalise, merge duplicates, split, prove it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder, verify_folder, write_atomic
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS, SplitName
from tunesmith.data.augment.apply import augmented
from tunesmith.data.augment.fits import refuse_misfits
from tunesmith.data.augment.generator import Generator
from tunesmith.data.by_time import boundaries, check_enough_left, check_order, check_readable, split_by_time
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown, as_page
from tunesmith.data.compliance import REPORT, SourceRows, compliance_report
from tunesmith.data.dedup import Embedder, drop_near_duplicates, drop_semantic_duplicates, merge_duplicates
from tunesmith.data.defects import spoken
from tunesmith.data.formats.fits import refuse_together_larger_than_memory
from tunesmith.data.formats.read import Note, Reading, SourceReport, read_source, rows_by_licence
from tunesmith.data.gate import Gate
from tunesmith.data.labels.apply import SUSPECTED, alike_names, check_names, rename_labels, suspected, suspected_lines
from tunesmith.data.labels.suspect import Suspicion
from tunesmith.data.media.content import places_of, put_down
from tunesmith.data.media.kinds import MEDIA_KINDS
from tunesmith.data.media.made import files_made
from tunesmith.data.media.settings import refuse_settings_of_words
from tunesmith.data.pii.sealed import FILE, one_key, seal, user_key
from tunesmith.data.prepared import Prepared
from tunesmith.data.split import check_leaks, shared_with, split_rows
from tunesmith.data.stage_rules import unlike_the_run
from tunesmith.data.table import SCHEMA
from tunesmith.data.tidy import Cleaner, Needs
from tunesmith.data.version import made_by, settings_of
from tunesmith.data.wall import LOOKED_AT, Likeness, Wall
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.data import DataSpec, SourceSpec, SplitSpec, StageDataSpec
from tunesmith.recipe.specs.goal import ComplianceSpec
from tunesmith.recipe.specs.objectives import TARGET

FOLDER = "data"
CARD, CARD_PAGE = "data_card.md", "data_card.html"
_NOTHING: Mapping[SplitName, pl.DataFrame] = MappingProxyType({})


@dataclass
class _Work:
    """What the steps share."""

    spec: DataSpec | StageDataSpec
    folder: Path
    ledger: Ledger
    sources: list[SourceReport]
    notes: list[Note]
    cleaner: Cleaner
    embed: Embedder | None
    wall: Wall
    likeness: Likeness
    """From where on a row is too like one that the run is evaluated on."""
    suspected: list[tuple[int, Suspicion]] = field(default_factory=list)
    compliance: ComplianceSpec | None = None
    stage: str = ""
    """Whose tables are made; none of the run's own."""

    def table(self, what: str) -> str:
        """The name of a table, such as train, or instruct-train where it is a stage's own."""
        return f"{self.stage}-{what}" if self.stage else what


def prepare(
    spec: DataSpec,
    recipe_folder: Path,
    ledger: Ledger,
    stages: Sequence[StageSpec] = (),
    generator: Generator | None = None,
    needs: Needs | None = None,
    embed: Embedder | None = None,
    made_in: Path | None = None,
    compliance: ComplianceSpec | None = None,
) -> Prepared:
    """Read, clean and split the rows of a recipe. Every row that was read has a fate in the ledger.

    Args:
        stages: each may name rows of its own to learn from, and rows of older tasks, which are not split. What stands
            in the run's test or validation goes from all of these.
        generator: who answers prompts, where rows are to be made by a model.
        needs: what else needs a model.
        embed: what makes vectors of texts, for duplicates by meaning.
        compliance: licences that count, where rows state their own.
        made_in: a folder for pictures and sounds that are made; without one they are counted and not kept.

    Errors: those of `Cleaner`, `read_source`, `split_rows`, `split_by_time` and `refuse_misfits`; data.missing_group,
    data.no_rows, data.nothing_left, data.media_setting, data.several_keys.
    """
    everything: Sequence[DataSpec | StageDataSpec] = (spec, *(stage.data for stage in stages if stage.data is not None))
    for stated in everything:
        refuse_settings_of_words(stated)
    one_key(stated.clean.pii for stated in everything)
    if spec.augment is not None:
        refuse_misfits(spec.augment, spec.kind)
    of_run = [source for _, source in sources_in_order(spec)]
    places = places_of(of_run, recipe_folder, made_in)
    if spec.kind not in MEDIA_KINDS:
        beside = [source for stage in stages for sources in stage.sources.values() for source in sources]
        refuse_together_larger_than_memory([*of_run, *beside, *(spec.benchmarks or ())], recipe_folder)
    cleaner = Cleaner(spec.clean, recipe_folder, ledger, needs or Needs())
    wall = Wall(spec.benchmarks or (), recipe_folder, ledger, embed)
    likeness = Likeness.of(spec.clean)
    work = _Work(spec, recipe_folder, ledger, [], [], cleaner, embed, wall, likeness, compliance=compliance)
    given: dict[SplitName, list[SourceSpec]] = {}
    for split, source in sources_in_order(spec):
        given.setdefault(split, []).append(source)
    frames = _splits(work, given)
    asked: dict[str, pl.DataFrame] = {split: frames[split] for split in LOOKED_AT}
    gates = {"train": Gate("train", cleaner, wall, asked, work.likeness, ledger)}
    if spec.augment is not None:
        given_to = (spec.augment, frames["train"], asked, recipe_folder, ledger, generator, places)
        frames["train"], made = augmented(*given_to, gates["train"].admit)
        work.notes += made
        check_leaks(frames)
    tables: dict[str, pl.DataFrame] = {}
    cleaners = [cleaner]
    for stage in stages:
        if stage.data is not None:
            cleaners.append(cleaner.beside(stage.data.clean))
            work.notes += unlike_the_run(spec, stage)
        own = cleaner if stage.data is None else cleaners[-1]
        likeness = Likeness.of(spec.clean, stage.data.clean if stage.data is not None else None)
        staged = replace(work, spec=stage.data or spec, cleaner=own, stage=stage.name, likeness=likeness)
        for name, frame in _beside(staged, stage, frames).items():
            parted, notes = wall.keep_alike_apart({name: frame, **asked}, likeness, (name,))
            work.notes += notes
            tables[name] = parted[name]
            gates[name] = Gate(name, own, wall, asked, likeness, ledger)
    refuse_empty(tables, ledger)
    ledger.check(row for frame in (*frames.values(), *tables.values()) for row in frame["row"])
    ordered = {split: frames[split] for split in SPLITS}
    return Prepared(
        ordered,
        ledger,
        tuple(work.sources),
        tuple(work.notes),
        tables,
        settings_of(spec, stages),
        personal=tuple(dict.fromkeys(each.personal for each in cleaners if each.personal is not None)),
        listed=tuple(found for each in cleaners for found in each.listed),
        suspected=tuple(work.suspected),
        places=places,
        gates=gates,
    )


def read_and_clean(spec: DataSpec, recipe_folder: Path, ledger: Ledger) -> Prepared:
    """The rows of the sources, cleaned and not split, as the table `rows`: a look at files that no recipe knows yet.

    Errors: those of `read_source`.
    """
    if spec.kind not in MEDIA_KINDS:
        refuse_together_larger_than_memory(spec.sources, recipe_folder)
    cleaner = Cleaner(spec.clean, recipe_folder, ledger, Needs())
    wall = Wall((), recipe_folder, ledger, None)
    work = _Work(spec, recipe_folder, ledger, [], [], cleaner, None, wall, Likeness())
    frame = _clean(work, "rows", _read(work, "rows", spec.sources))
    notes = (*work.notes, *alike_names(frame))
    return Prepared(
        {},
        ledger,
        tuple(work.sources),
        notes,
        {"rows": frame},
        made_by(spec),
        personal=(cleaner.personal,) if cleaner.personal is not None else (),
        places=places_of(spec.sources, recipe_folder),
    )


def _splits(
    work: _Work, given: Mapping[SplitName, Sequence[SourceSpec]], asked: Mapping[SplitName, pl.DataFrame] = _NOTHING
) -> dict[SplitName, pl.DataFrame]:
    """Clean splits of the sources given for each, without what stands in `asked`."""
    untimed, time_by = _untimed(work), work.spec.split.time_by
    frames = {split: _read(work, work.table(split), sources, time_by) for split, sources in given.items()}
    _check_group(work, frames)
    if time_by is not None:
        check_readable(time_by, sum(len(frame) for frame in frames.values()), _untimed(work) - untimed)
    for split, frame in frames.items():
        frames[split] = _unasked(work, work.table(split), frame, asked)
    _labels(work, frames)
    frames["train"] = _without_benchmarks(work, "train", frames["train"])
    work.notes += work.wall.keep_apart(frames, work.stage)
    frames = _alike_apart(work, frames)
    frames = _alike_apart(work, _split(work, frames))
    refuse_empty({work.table(split): frame for split, frame in frames.items()}, work.ledger)
    check_leaks(frames)
    check_order(frames)
    work.notes += boundaries({work.table(split): frames[split] for split in SPLITS if split in frames})
    return frames


def _beside(work: _Work, stage: StageSpec, frames: Mapping[SplitName, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """What one stage alone names: its own rows, split, and rows of older tasks; none that the evaluation will ask, and
    of older tasks none that the stage's own validation asks."""
    own: dict[SplitName, Sequence[SourceSpec]] = {}
    if stage.data is not None:
        own = {"validation": stage.data.validation_sources} if stage.data.validation_sources else {}
        own["train"] = stage.data.sources
    tables = {work.table(split): frame for split, frame in (_splits(work, own, frames) if own else {}).items()}
    judged_by = {"validation": tables[work.table("validation")]} if tables else {}
    for what, sources in stage.old_sources.items():
        name = work.table(what)
        old = _unasked(work, name, _read(work, name, sources), frames)
        old = _unlike(work, name, _without_benchmarks(work, what, old), judged_by)
        tables[name] = rename_labels(old, work.spec.labels.names, work.ledger) if work.spec.labels else old
    return tables


def _unasked(work: _Work, name: str, frame: pl.DataFrame, asked: Mapping[SplitName, pl.DataFrame]) -> pl.DataFrame:
    """Clean rows of a table, less those that stand in a test or validation that it is held apart from."""
    frame = _clean(work, name, frame)
    for other in LOOKED_AT:
        if other in asked:
            frame, notes = work.wall.without_shared(name, frame, other, asked[other])
            work.notes += notes
    return frame


def _unlike(work: _Work, name: str, frame: pl.DataFrame, others: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows of a table that share no prompt or group with one of the others, and have no prompt like theirs."""
    for other, rows in others.items():
        frame, notes = work.wall.without_shared(name, frame, other, rows)
        work.notes += notes
    parted, notes = work.wall.keep_alike_apart({name: frame, **others}, work.likeness, (name,))
    work.notes += notes
    return parted[name]


def _without_benchmarks(work: _Work, what: str, frame: pl.DataFrame) -> pl.DataFrame:
    frame, notes = work.wall.without_benchmarks(work.table(what), frame, work.likeness.meaning)
    work.notes += notes
    return frame


def _alike_apart(work: _Work, frames: Mapping[SplitName, pl.DataFrame]) -> dict[SplitName, pl.DataFrame]:
    """The splits, none of which holds a prompt like one of another."""
    named: dict[str, pl.DataFrame] = {split: frames[split] for split in frames}
    parted, notes = work.wall.keep_alike_apart(named, Likeness.of(work.spec.clean))
    work.notes += notes
    return {split: parted[split] for split in frames}


def refuse_empty(frames: Mapping[str, pl.DataFrame] | Mapping[SplitName, pl.DataFrame], ledger: Ledger) -> None:
    """Errors: data.nothing_left where a split has lost all its rows."""
    for split, frame in frames.items():
        if frame.is_empty():
            raise TunesmithError("data.nothing_left", split=split, reason=spoken(_main_reason(ledger)))


def sources_in_order(spec: DataSpec) -> list[tuple[SplitName, SourceSpec]]:
    """The sources with the split they are given for, in the order in which the ledger numbers their rows.

    Those that a stage names come behind them (`Recipe.sources_beside`).
    """
    given: dict[SplitName, Sequence[SourceSpec]] = {
        "test": spec.test_sources,
        "validation": spec.validation_sources,
        "train": spec.sources,
    }
    return [(split, source) for split, sources in given.items() for source in sources]


def _read(work: _Work, split: str, sources: Sequence[SourceSpec], time_by: str | None = None) -> pl.DataFrame:
    frames = []
    for source in sources:
        kind, labelled = work.spec.kind_of(source.title), split != f"{work.stage}-{TARGET}"
        reading = Reading(kind, work.spec.split.group_by, work.spec.split.seed, labelled, time_by, work.compliance)
        frame, report = read_source(source, split, work.folder, reading, work.ledger)
        frames.append(frame)
        work.sources.append(report)
    return pl.concat(frames)


def _check_group(work: _Work, frames: Mapping[SplitName, pl.DataFrame]) -> None:
    column = work.spec.split.group_by
    if column and all((frame["group"] == "").all() for frame in frames.values()):
        raise TunesmithError("data.missing_group", column=column)


def _untimed(work: _Work) -> int:
    """Rows so far that went for want of a time."""
    return work.ledger.totals().get("dropped: no_time", 0)


def _clean(work: _Work, split: str, frame: pl.DataFrame) -> pl.DataFrame:
    frame, notes = work.cleaner.apply(split, frame)
    work.notes += notes
    if work.spec.clean.exact_duplicates:
        before = len(frame)
        frame = merge_duplicates(frame, work.ledger, by_source=work.spec.tasks is not None)
        work.notes.append(Note("data.merged", {"rows": before - len(frame), "split": split}))
    if work.spec.tasks is None or frame.is_empty():
        return _without_alike(work, split, frame)
    # a text that two tasks have in common is asked two different questions
    parts = frame.partition_by("source", maintain_order=True)
    return pl.concat([_without_alike(work, split, each) for each in parts]).sort("row")


def _without_alike(work: _Work, split: str, frame: pl.DataFrame) -> pl.DataFrame:
    """One of the rows that are near by their words, then one of those that are near by their meaning."""
    wanted = work.spec.clean
    before = len(frame)
    if wanted.near_duplicates is not None:
        frame = drop_near_duplicates(frame, wanted.near_duplicates, work.ledger)
        work.notes.append(Note("data.near_dropped", {"rows": before - len(frame), "split": split}))
    before = len(frame)
    if wanted.semantic_duplicates is not None:
        if work.embed is None:
            raise TunesmithError("data.no_embedder")
        frame = drop_semantic_duplicates(frame, wanted.semantic_duplicates, work.embed, work.ledger)
        work.notes.append(Note("data.semantic_dropped", {"rows": before - len(frame), "split": split}))
    return frame


def _labels(work: _Work, frames: dict[SplitName, pl.DataFrame]) -> None:
    """Labels by the names that are meant, in all tables; what is suspected of the rows that are learned from."""
    wished = work.spec.labels
    everything = pl.concat(frames.values())
    work.notes += alike_names(everything)
    if wished is None:
        return
    check_names(everything, wished.names)
    for split, frame in frames.items():
        frames[split] = rename_labels(frame, wished.names, work.ledger)
    frames["train"], against = suspected(frames["train"], wished, work.spec.split.seed, work.ledger)
    if wished.suspected != "ignore":
        work.notes.append(Note("data.suspected", {"rows": len(against), "at_least": wished.at_least}))
    work.suspected.extend(against)


def _split(work: _Work, frames: dict[SplitName, pl.DataFrame]) -> dict[SplitName, pl.DataFrame]:
    """Cut what was not given from the sources."""
    wished, near = work.spec.split, work.spec.clean.near_duplicates
    shares = {split: share for split, share in wished.shares.items() if split == "train" or split not in frames}
    source = frames["train"]
    if source.is_empty():
        raise TunesmithError("data.no_rows", read=len(work.ledger), reason=spoken(_main_reason(work.ledger)))
    if wished.time_by is not None:
        return frames | _cut_by_time(work, source, shares)
    if wished.stratify_by and not (source["labels"].list.len() > 0).any():
        raise TunesmithError("data.no_classes")
    stated = wished.fold if isinstance(wished, SplitSpec) else None
    if stated is not None and "test" in frames:
        raise TunesmithError("data.fold_and_test")
    fold = (stated.number, stated.of) if stated else None
    return frames | split_rows(source, shares, wished.seed, near, stratify=wished.stratify_by is not None, fold=fold)


def _cut_by_time(work: _Work, source: pl.DataFrame, shares: Mapping[SplitName, float]) -> dict[SplitName, pl.DataFrame]:
    """The cut, less the rows of older splits whose prompt or group also stands in a newer one."""
    cut = split_by_time(source, shares)
    rows = {split: len(frame) for split, frame in cut.items()}
    work.notes += work.wall.keep_apart(cut, work.stage)
    check_enough_left(rows, cut)
    return cut


def _main_reason(ledger: Ledger) -> str:
    """The most frequent reason for which rows went, besides that the recipe asked for some of them alone."""
    totals = ledger.totals().items()
    gone = {name: rows for name, rows in totals if name.startswith(("dropped", "merged"))}
    gone = {name: rows for name, rows in gone.items() if not name.endswith(": not_sampled")} or gone
    return max(gone, key=lambda name: gone[name]).partition(": ")[2] if gone else "-"


def write(
    prepared: Prepared,
    run_path: Path,
    tokens: Mapping[SplitName, Sequence[int]] | None = None,
    compliance: ComplianceSpec | None = None,
) -> list[Path]:
    """Write `data/<split>.parquet`, the tables beside them and the data card into a run; returns the paths written.

    Besides, where the recipe asks for them: the compliance report, suspected labels, and placeholders under a key.
    Pictures and sounds that were made stand in `data/media`, each under its hash. `tokens` are the rows' lengths in
    tokens by split, for the card. Errors: those of `new_folder`, `put_down` and `user_key`.
    """
    made = files_made(prepared.tables)
    needed = sum(int(frame.estimated_size()) for frame in prepared.tables.values()) + sum(each.bytes for each in made)
    rows = {name: len(frame) for name, frame in prepared.tables.items()}
    with new_folder(run_path / FOLDER, needed, rows=rows, **prepared.version.facts()) as folder:
        for split, frame in prepared.tables.items():
            # By way of memory: of a full disk polars says "invalid thrift", which helps nobody.
            content = io.BytesIO()
            frame.write_parquet(content)
            (folder / f"{split}.parquet").write_bytes(content.getbuffer())
        put_down(prepared.places, made, folder)
    sections = card_sections(prepared, tokens)
    write_atomic(run_path / CARD_PAGE, as_page(sections))
    write_atomic(run_path / CARD, as_markdown(sections))
    cards = [run_path / CARD_PAGE, run_path / CARD]
    stored = sorted(each for each in (run_path / FOLDER).rglob("*") if each.is_file())
    return [*stored, *cards, *_write_asked(prepared, run_path, compliance)]


def _write_asked(prepared: Prepared, run_path: Path, compliance: ComplianceSpec | None) -> list[Path]:
    written: list[Path] = []
    if prepared.personal or prepared.listed or compliance is not None:
        sources = [
            SourceRows(each.name, each.split, licence, rows)
            for each in prepared.sources
            for licence, rows in rows_by_licence(each).items()
        ]
        page = compliance_report(sources, prepared.personal, prepared.listed, compliance)
        write_atomic(run_path / REPORT, page)
        written.append(run_path / REPORT)
    if prepared.suspected:
        write_atomic(run_path / SUSPECTED, suspected_lines(list(prepared.suspected), prepared.ledger))
        written.append(run_path / SUSPECTED)
    key = one_key(each.spec for each in prepared.personal)
    if key is not None:
        seal(prepared.personal[0].masker.values, user_key(key), run_path / FILE)
        written.append(run_path / FILE)
    return written


def load_splits(run_path: Path) -> dict[SplitName, pl.DataFrame]:
    """The stored splits, their hashes and the wall between them checked again.

    Errors: data.not_prepared, those of `verify_folder`, data.leak, data.time_order.
    """
    folder = run_path / FOLDER
    if not folder.is_dir():
        raise TunesmithError("data.not_prepared", path=str(run_path))
    verify_folder(folder)
    frames = {split: _stored(folder / f"{split}.parquet") for split in SPLITS}
    check_leaks(frames)
    check_order(frames)
    return frames


def _stored(path: Path) -> pl.DataFrame:
    """A stored table; one of an older release lacks columns that came later."""
    return pl.read_parquet(path, schema=SCHEMA, missing_columns="insert")


def load_beside(run_path: Path) -> dict[str, pl.DataFrame]:
    """The stored rows that a stage alone names, by their table, held against what the evaluation asks.

    What a stage learns from is held against its own validation too. Errors: those of `load_splits`.
    """
    splits = load_splits(run_path)
    paths = sorted((run_path / FOLDER).glob("*.parquet"))
    tables = {path.stem: _stored(path) for path in paths if path.stem not in SPLITS}
    for name, frame in tables.items():
        asked = {str(split): splits[split] for split in LOOKED_AT}
        stage, _, what = name.rpartition("-")
        if what == "train":
            check_order({"train": frame, "validation": tables[f"{stage}-validation"]})
        if what != "validation" and f"{stage}-validation" in tables:
            asked[f"{stage}-validation"] = tables[f"{stage}-validation"]
        for other, rows in asked.items():
            shared = shared_with(frame, rows)
            if len(shared):
                raise TunesmithError("data.leak", rows=len(shared), one=name, other=other)
    return tables


def load_tables(run_path: Path) -> dict[str, pl.DataFrame]:
    """All stored rows: the splits and the tables beside them. Errors: those of `load_splits`."""
    return {
        str(name): each for tables in (load_splits(run_path), load_beside(run_path)) for name, each in tables.items()
    }


def load_split(run_path: Path, split: SplitName) -> pl.DataFrame:
    """One stored split, checked as `load_splits` does."""
    return load_splits(run_path)[split]
