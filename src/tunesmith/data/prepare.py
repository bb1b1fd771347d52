"""From the recipe's sources to clean splits: read, normalise, merge duplicates, split, prove it."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder, verify_folder, write_atomic
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS, SplitName
from tunesmith.data.augment.apply import augmented
from tunesmith.data.augment.generator import Generator
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown, as_page
from tunesmith.data.clean import blank_reason, normalize
from tunesmith.data.dedup import merge_duplicates
from tunesmith.data.formats.read import Note, Reading, SourceReport, read_source
from tunesmith.data.prepared import Prepared
from tunesmith.data.split import check_leaks, shared_with, split_rows
from tunesmith.data.table import SCHEMA
from tunesmith.data.version import made_by
from tunesmith.recipe.specs.data import DataSpec, SourceSpec

FOLDER = "data"
CARD, CARD_PAGE = "data_card.md", "data_card.html"
_LOOKED_AT: tuple[SplitName, ...] = ("test", "validation")
"""Splits whose rows nothing may be learned from."""


@dataclass
class _Work:
    """What the steps share."""

    spec: DataSpec
    folder: Path
    ledger: Ledger
    sources: list[SourceReport]
    notes: list[Note]
    unlabelled: frozenset[str] = frozenset()


def prepare(
    spec: DataSpec,
    recipe_folder: Path,
    ledger: Ledger,
    old: Mapping[str, Sequence[SourceSpec]] | None = None,
    generator: Generator | None = None,
    unlabelled: Collection[str] = (),
) -> Prepared:
    """Read, clean and split the rows of a recipe. Every row that was read has a fate in the ledger.

    Args:
        old: sources of rows of older tasks by the name of their table; they are cleaned alike and not split, and those
            that stand in test or validation go.
        generator: who answers prompts, where rows are to be made by a model.
        unlabelled: names of tables of `old` of which texts alone are read, whatever else stands there.

    Errors: those of `read_source` and `split_rows`; data.missing_group, data.no_rows, data.nothing_left.
    """
    work = _Work(spec, recipe_folder, ledger, [], [], frozenset(unlabelled))
    given: dict[SplitName, list[SourceSpec]] = {}
    for split, source in sources_in_order(spec):
        given.setdefault(split, []).append(source)
    frames = {split: _read(work, split, sources) for split, sources in given.items()}
    _check_group(work, frames)
    for split, frame in frames.items():
        frames[split] = _clean(work, split, frame)
    _keep_apart(work, frames)
    frames = _split(work, frames)
    refuse_empty(frames, ledger)
    if spec.augment is not None:
        looked_at: dict[str, pl.DataFrame] = {split: frames[split] for split in _LOOKED_AT}
        frames["train"], made = augmented(spec.augment, frames["train"], looked_at, recipe_folder, ledger, generator)
        work.notes += made
    check_leaks(frames)
    tables = _old(work, old or {}, frames)
    refuse_empty(tables, ledger)
    ledger.check(row for frame in (*frames.values(), *tables.values()) for row in frame["row"])
    ordered = {split: frames[split] for split in SPLITS}
    return Prepared(ordered, ledger, tuple(work.sources), tuple(work.notes), tables, made_by(spec))


def read_and_clean(spec: DataSpec, recipe_folder: Path, ledger: Ledger) -> Prepared:
    """The rows of the sources, cleaned and not split, as the table `rows`: a look at files that no recipe knows yet.

    Errors: those of `read_source`.
    """
    work = _Work(spec, recipe_folder, ledger, [], [])
    frame = _clean(work, "rows", _read(work, "rows", spec.sources))
    return Prepared({}, ledger, tuple(work.sources), tuple(work.notes), {"rows": frame}, made_by(spec))


def _old(
    work: _Work, old: Mapping[str, Sequence[SourceSpec]], frames: Mapping[SplitName, pl.DataFrame]
) -> dict[str, pl.DataFrame]:
    """The tables of older tasks, without what the evaluation will ask."""
    tables: dict[str, pl.DataFrame] = {}
    for name, sources in old.items():
        frame = _clean(work, name, _read(work, name, sources))
        for other in _LOOKED_AT:
            frame = _without_shared(work, name, frame, other, frames[other])
        tables[name] = frame
    return tables


def refuse_empty(frames: Mapping[str, pl.DataFrame] | Mapping[SplitName, pl.DataFrame], ledger: Ledger) -> None:
    """Errors: data.nothing_left where a split has lost all its rows."""
    for split, frame in frames.items():
        if frame.is_empty():
            raise TunesmithError("data.nothing_left", split=split, reason=_main_reason(ledger))


def sources_in_order(spec: DataSpec) -> list[tuple[SplitName, SourceSpec]]:
    """The sources with the split they are given for, in the order in which the ledger numbers their rows.

    The rows of older tasks come behind them.
    """
    given: dict[SplitName, Sequence[SourceSpec]] = {
        "test": spec.test_sources,
        "validation": spec.validation_sources,
        "train": spec.sources,
    }
    return [(split, source) for split, sources in given.items() for source in sources]


def _read(work: _Work, split: str, sources: Sequence[SourceSpec]) -> pl.DataFrame:
    frames = []
    for source in sources:
        kind = work.spec.kind_of(source.name or source.path)
        reading = Reading(kind, work.spec.split.group_by, work.spec.split.seed, split not in work.unlabelled)
        frame, report = read_source(source, split, work.folder, reading, work.ledger)
        frames.append(frame)
        work.sources.append(report)
    return pl.concat(frames)


def _check_group(work: _Work, frames: Mapping[SplitName, pl.DataFrame]) -> None:
    column = work.spec.split.group_by
    if column and all((frame["group"] == "").all() for frame in frames.values()):
        raise TunesmithError("data.missing_group", column=column)


def _clean(work: _Work, split: str, frame: pl.DataFrame) -> pl.DataFrame:
    if work.spec.clean.normalize:
        frame, changed = normalize(frame)
        work.notes.append(Note("data.normalized", {"rows": changed, "split": split}))
        blank = frame.select("row", blank_reason()).drop_nulls("reason")
        for (reason,), rows in blank.group_by("reason", maintain_order=True):
            work.ledger.decide(rows["row"], "dropped", str(reason))
        frame = frame.join(blank, on="row", how="anti", maintain_order="left")
    if work.spec.clean.exact_duplicates:
        before = len(frame)
        frame = merge_duplicates(frame, work.ledger, by_source=work.spec.tasks is not None)
        work.notes.append(Note("data.merged", {"rows": before - len(frame), "split": split}))
    return frame


def _keep_apart(work: _Work, frames: dict[SplitName, pl.DataFrame]) -> None:
    """Take rows out of training that stand in a given test or validation, and out of validation those of test."""
    for split, others in (("validation", ("test",)), ("train", ("test", "validation"))):
        for other in others:
            if split not in frames or other not in frames:
                continue
            frames[split] = _without_shared(work, split, frames[split], other, frames[other])


def _without_shared(work: _Work, name: str, frame: pl.DataFrame, other: str, others: pl.DataFrame) -> pl.DataFrame:
    """The rows that share neither a prompt nor a group with a row of `others`; the rest are dropped."""
    shared = shared_with(frame, others)
    by_prompt = shared.filter("same_prompt")["row"]
    by_group = shared.filter(~pl.col("same_prompt"))["row"]
    work.ledger.decide(by_prompt, "dropped", f"prompt_also_in_{other}")
    work.ledger.decide(by_group, "dropped", f"group_also_in_{other}")
    if len(shared):
        work.notes.append(Note("data.kept_apart", {"rows": len(shared), "split": name, "other": other}))
    return frame.join(shared, on="row", how="anti", maintain_order="left")


def _split(work: _Work, frames: dict[SplitName, pl.DataFrame]) -> dict[SplitName, pl.DataFrame]:
    """Cut what was not given from the sources."""
    wished = work.spec.split
    stated: dict[SplitName, float] = {"train": wished.train, "validation": wished.validation, "test": wished.test}
    shares = {split: share for split, share in stated.items() if split == "train" or split not in frames}
    source = frames["train"]
    if source.is_empty():
        raise TunesmithError("data.no_rows", read=len(work.ledger), reason=_main_reason(work.ledger))
    return frames | split_rows(source, shares, wished.seed)


def _main_reason(ledger: Ledger) -> str:
    """The most frequent reason for which rows went."""
    gone = {name: rows for name, rows in ledger.totals().items() if name.startswith(("dropped", "merged"))}
    return max(gone, key=lambda name: gone[name]).partition(": ")[2] if gone else "-"


def write(prepared: Prepared, run_path: Path, tokens: Mapping[SplitName, Sequence[int]] | None = None) -> list[Path]:
    """Write `data/<split>.parquet`, those of old rows and the data card into a run; returns the paths written.

    `tokens` are the rows' lengths in tokens by split, for the card. Errors: those of `new_folder`.
    """
    needed = sum(int(frame.estimated_size()) for frame in prepared.tables.values())
    rows = {name: len(frame) for name, frame in prepared.tables.items()}
    with new_folder(run_path / FOLDER, needed, rows=rows, **prepared.version.facts()) as folder:
        for split, frame in prepared.tables.items():
            # By way of memory: of a full disk polars says "invalid thrift", which helps nobody.
            content = io.BytesIO()
            frame.write_parquet(content)
            (folder / f"{split}.parquet").write_bytes(content.getbuffer())
    sections = card_sections(prepared, tokens)
    write_atomic(run_path / CARD_PAGE, as_page(sections))
    write_atomic(run_path / CARD, as_markdown(sections))
    return [*sorted((run_path / FOLDER).iterdir()), run_path / CARD_PAGE, run_path / CARD]


def load_splits(run_path: Path) -> dict[SplitName, pl.DataFrame]:
    """The stored splits, their hashes and the wall between them checked again.

    Errors: data.not_prepared, those of `verify_folder`, data.leak.
    """
    folder = run_path / FOLDER
    if not folder.is_dir():
        raise TunesmithError("data.not_prepared", path=str(run_path))
    verify_folder(folder)
    frames = {split: _stored(folder / f"{split}.parquet") for split in SPLITS}
    check_leaks(frames)
    return frames


def _stored(path: Path) -> pl.DataFrame:
    """A stored table; one of an older release lacks columns that came later."""
    return pl.read_parquet(path, schema=SCHEMA, missing_columns="insert")


def load_old(run_path: Path) -> dict[str, pl.DataFrame]:
    """The stored rows of older tasks by the name of their table, held against what the evaluation asks.

    Errors: those of `load_splits`.
    """
    splits = load_splits(run_path)
    paths = sorted((run_path / FOLDER).glob("*.parquet"))
    tables = {path.stem: _stored(path) for path in paths if path.stem not in SPLITS}
    for name, frame in tables.items():
        for other in _LOOKED_AT:
            shared = shared_with(frame, splits[other])
            if len(shared):
                raise TunesmithError("data.leak", rows=len(shared), one=name, other=other)
    return tables


def load_tables(run_path: Path) -> dict[str, pl.DataFrame]:
    """All stored rows: the splits and those of older tasks. Errors: those of `load_splits`."""
    return {str(name): each for tables in (load_splits(run_path), load_old(run_path)) for name, each in tables.items()}


def load_split(run_path: Path, split: SplitName) -> pl.DataFrame:
    """One stored split, checked as `load_splits` does."""
    return load_splits(run_path)[split]
