"""A source of the recipe to one canonical table, every row of every file entered in the ledger."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.seed import derive_seed
from tunesmith.core.types import Message, RowKind
from tunesmith.data.collect.lineage import lineage_notes, lineage_of_source
from tunesmith.data.defects import Reason, RowDefect
from tunesmith.data.formats.detect import detect_layout, kind_of, reader_of
from tunesmith.data.formats.files import Manner, RawFile, is_hidden, list_files, read_files
from tunesmith.data.formats.labelled import UNLABELLED_READERS
from tunesmith.data.formats.layouts import Record
from tunesmith.data.formats.registry import find_entry
from tunesmith.data.formats.rows import LONGEST_ROW, RawRow, Unread
from tunesmith.data.formats.terms import refused_by
from tunesmith.data.formats.turns import USUAL_KEYS, TurnKeys
from tunesmith.data.notes import Note as Note
from tunesmith.data.table import SCHEMA, build_frame, turn_value
from tunesmith.recipe.places import is_local, local_path
from tunesmith.recipe.specs.data import Layout, SourceSpec
from tunesmith.recipe.specs.sources import TermsSpec

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


@dataclass(frozen=True)
class FileReport:
    """One file as it was found, `path` as the recipe names it.

    `rows` counts all its rows, `readable` those with a right shape.
    """

    path: str
    sha256: str
    bytes: int
    encoding: str
    layout: Layout
    rows: int
    readable: int


@dataclass(frozen=True)
class SourceReport:
    """One source of the recipe. `split` is the split (or the table of old rows) that it was given for.

    It is "train" when the rows are split here.
    """

    name: str
    split: str
    licence: str
    files: tuple[FileReport, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Reading:
    """What all sources of one run have in common; of rows that are not `labelled` text or tokens alone are read."""

    wanted: RowKind
    group_by: str | None
    seed: int
    labelled: bool = True


@dataclass(frozen=True)
class _Layout:
    layout: Layout
    columns: Mapping[str, str]
    only: bool
    """Whether columns that are not mapped are left out, as LLaMA-Factory's register means it."""
    keys: TurnKeys


@dataclass(frozen=True)
class _Part:
    """What the rows of a file have in common: their source, the document they are cut from, who agreed to what."""

    source: str
    document: str
    terms: TermsSpec | None


def read_source(
    source: SourceSpec, split: str, folder: Path, reading: Reading, ledger: Ledger
) -> tuple[pl.DataFrame, SourceReport]:
    """Read a source into the canonical table; rows that cannot be used are dropped in the ledger with a reason.

    Errors: those of `list_files`, `read_file`, `detect_layout`, `find_entry`; data.missing_columns.
    """
    path, name = local_path(source, folder), source.title
    if not is_local(source) and not path.is_dir():
        raise TunesmithError("data.not_collected", source=name)
    licence = source.licence or str(lineage_of_source(source, path).get("licence", ""))
    taken, passed_over = list_files(path)
    notes = [*lineage_notes(source, path), *_notes_of(passed_over, path, source)]
    raws = [raw for each in taken for raw in read_files(each, manner_of(source))]
    several = sum(raw.document for raw in raws) > 1
    numbers = ledger.read(name, sum(len(raw.rows) for raw in raws))
    files: list[FileReport] = []
    frames: list[pl.DataFrame] = []
    place = 0
    for raw in raws:
        shown = _shown(raw.path, path, source.address)
        document = shown if raw.document and several else ""
        span = numbers[place : place + len(raw.rows)]
        frame, layout = read_raw(raw, source, name, span, reading, ledger, document)
        place += len(raw.rows)
        frames.append(frame)
        files.append(FileReport(shown, raw.sha256, raw.bytes, raw.encoding, layout, len(raw.rows), len(frame)))
        notes.append(Note("data.read_file", {"path": shown, "rows": len(raw.rows), "layout": layout}))
        notes += raw.notes
        if raw.guessed:
            notes.append(Note("data.guessed_encoding", {"path": shown, "encoding": raw.encoding}))
    frame = pl.concat(frames)
    if source.sample is not None and source.sample < len(frame):
        frame = _sample(frame, source.sample, derive_seed(reading.seed, f"sample {name}"), ledger)
    return frame, SourceReport(name, split, licence, tuple(files), tuple(notes))


def manner_of(source: SourceSpec) -> Manner:
    """How the files of a source are read."""
    usual = Manner()
    return Manner(source.encoding or usual.encoding, source.chunk_size or usual.chunk_size)


def _notes_of(passed_over: Sequence[Path], path: Path, source: SourceSpec) -> list[Note]:
    """What was not read, except for a page that describes the others."""
    return [
        Note(
            "data.hidden" if is_hidden(each, path) else "data.passed_over", {"path": _shown(each, path, source.address)}
        )
        for each in passed_over
        if each.suffix.lower() != ".md"
    ]


def read_raw(
    raw: RawFile,
    source: SourceSpec,
    name: str,
    numbers: range,
    reading: Reading,
    ledger: Ledger,
    document: str = "",
) -> tuple[pl.DataFrame, Layout]:
    """The raw rows of a file, or of a part of one, in the canonical table, and their layout.

    Args:
        document: what its rows are cut from, where they must not part.

    Errors: those of `detect_layout`, `find_entry`; data.missing_columns, data.wrong_kind.
    """
    choose = _choose_layout if reading.labelled else _layout_without_labels
    layout = choose(source, raw, reading.wanted)
    part = _Part(name, document, source.terms)
    return _read_rows(raw, layout, part, numbers, reading, ledger), layout.layout


def _shown(file: Path, root: Path, stated: str) -> str:
    """A file's path as the recipe names it: a card that leaves the machine shows no home folder."""
    if file == root:
        return stated
    below = file.relative_to(root).as_posix()
    return f"{stated.rstrip('/')}/{below}" if "://" in stated or "#" in stated else (Path(stated) / below).as_posix()


def _choose_layout(source: SourceSpec, raw: RawFile, wanted: RowKind) -> _Layout:
    """What the recipe states, else what a register beside the file states, else what the columns tell."""
    present = {column for row in raw.rows if not isinstance(row, Unread) for column in row}
    entry = find_entry(raw.path, wanted) if source.layout == "auto" and not source.columns else None
    if entry is not None:
        _require(entry.needed, present, raw.path)
        chosen = _Layout(entry.layout, entry.columns, True, entry.keys)
    else:
        _require(frozenset(source.columns.values()), present, raw.path)
        layout = source.layout
        if layout == "auto":
            renamed = [row if isinstance(row, Unread) else _rename(row, source.columns, only=False) for row in raw.rows]
            layout = detect_layout(renamed, wanted, raw.path)
        chosen = _Layout(layout, source.columns, False, USUAL_KEYS)
    kind = kind_of(chosen.layout, wanted)
    if kind != wanted:
        raise TunesmithError("data.wrong_kind", path=str(raw.path), layout=chosen.layout, kind=kind, wanted=wanted)
    return chosen


def _layout_without_labels(source: SourceSpec, raw: RawFile, wanted: RowKind) -> _Layout:
    """Of a file of which texts or tokens alone are read. Errors: data.wrong_kind where the recipe states what holds
    none."""
    if source.layout not in ("auto", "text", wanted):
        kind = kind_of(source.layout, wanted)
        raise TunesmithError("data.wrong_kind", path=str(raw.path), layout=source.layout, kind=kind, wanted="text")
    present = {column for row in raw.rows if not isinstance(row, Unread) for column in row}
    _require(frozenset(source.columns.values()), present, raw.path)
    return _Layout("text", source.columns, False, USUAL_KEYS)


def _require(columns: frozenset[str], present: set[str], path: Path) -> None:
    missing = sorted(columns - present)
    if missing:
        raise TunesmithError("data.missing_columns", path=str(path), missing=", ".join(missing))


def _rename(row: Mapping[str, object], columns: Mapping[str, str], *, only: bool) -> Mapping[str, object]:
    if not columns:
        return row
    mapped = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    if only:
        return mapped
    theirs_used = set(columns.values())
    return {name: value for name, value in row.items() if name not in theirs_used} | mapped


def _read_rows(
    raw: RawFile, layout: _Layout, part: _Part, numbers: range, reading: Reading, ledger: Ledger
) -> pl.DataFrame:
    """The one loop over rows: from odd nested values to the columns of the table."""
    refused: dict[Reason, list[int]] = {}
    cut: dict[int, int] = {}
    renamed: list[int] = []
    columns: dict[str, list[object]] = {column: [] for column in SCHEMA}
    entries = ledger.entries()
    for number, row in zip(numbers, raw.rows, strict=True):
        try:
            record, group = _convert(row, layout, part, reading)
        except RowDefect as defect:
            refused.setdefault(defect.reason, []).append(number)
            continue
        if record.cut:
            cut[number] = record.cut
        if layout.layout == "messages" and _has_other_roles(row, layout):
            renamed.append(number)
        _append(columns, record, number, part.source, entries[number].index, group)
    if len(refused.get("missing_columns", [])) == len(raw.rows):
        raise TunesmithError("data.missing_columns", path=str(raw.path), missing=layout.layout)
    for reason, rows in refused.items():
        ledger.decide(rows, "dropped", reason)
    ledger.decide(cut, "truncated", "trailing_turn", cut.values())
    ledger.change(renamed, "role_renamed")
    return build_frame(columns)


def _has_other_roles(row: RawRow, layout: _Layout) -> bool:
    """Whether a turn's role is not one of OpenAI's, such as human and bot: it is read, and that is said."""
    turns = None if isinstance(row, Unread) else _rename(row, layout.columns, only=layout.only).get("messages")
    stated = [turn.get("role") for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    return any(isinstance(role, str) and role not in _ROLES and role not in layout.keys.names for role in stated)


def _convert(row: RawRow, layout: _Layout, part: _Part, reading: Reading) -> tuple[Record, str]:
    """What a row says and its group. Raises RowDefect."""
    if isinstance(row, Unread):
        raise RowDefect(row.reason)
    refused = refused_by(part.terms, row) if part.terms else None
    if refused is not None:
        raise RowDefect(refused)
    try:
        convert = reader_of(layout.layout, reading.wanted) if reading.labelled else UNLABELLED_READERS[reading.wanted]
        record = convert(_rename(row, layout.columns, only=layout.only), layout.keys)
    except RecursionError:
        raise RowDefect("too_deep") from None
    group = _group(row, reading.group_by) or part.document
    _check_text(record, group)
    return record, group


def _group(row: Mapping[str, object], column: str | None) -> str:
    value = None if column is None else row.get(column)
    return "" if value is None else str(value)


def _check_text(record: Record, group: str) -> None:
    """A lone surrogate (half of a character) can be written in JSON but not in UTF-8. Raises RowDefect."""
    pieces = [record.text, record.tools, group, *record.tokens, *record.labels]
    for turn in (*record.messages, *record.chosen, *record.rejected):
        pieces += [turn.content, turn.name, turn.tool_call_id]
        pieces += [part for call in turn.tool_calls for part in (call.name, call.arguments, call.id)]
    if sum(map(len, pieces)) > LONGEST_ROW:
        raise RowDefect("too_large")
    try:
        for piece in pieces:
            piece.encode()
    except UnicodeEncodeError:
        raise RowDefect("lone_surrogate") from None


def _append(columns: dict[str, list[object]], record: Record, number: int, name: str, index: int, group: str) -> None:
    def turns(messages: tuple[Message, ...]) -> list[dict[str, object]]:
        return [turn_value(message) for message in messages]

    values: tuple[object, ...] = (
        number,
        name,
        index,
        group,
        record.kind,
        turns(record.messages),
        record.tools,
        record.text,
        turns(record.chosen),
        turns(record.rejected),
        record.label,
        list(record.tokens),
        list(record.labels),
        None,
    )
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


def _sample(frame: pl.DataFrame, rows: int, seed: int, ledger: Ledger) -> pl.DataFrame:
    chosen = random.Random(seed).sample(range(len(frame)), rows)
    kept = pl.Series("kept", [False] * len(frame)).scatter(sorted(chosen), True)
    reason: Reason = "not_sampled"
    ledger.decide(frame.filter(~kept)["row"], "dropped", reason)
    return frame.filter(kept)
