"""A source of the recipe to one canonical table, every row of every file entered in the ledger."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.seed import derive_seed
from tunesmith.core.types import Message, RowKind
from tunesmith.data.annotations.rows import READ, record_of
from tunesmith.data.collect.lineage import lineage_notes, lineage_of_source
from tunesmith.data.defects import Reason, RowDefect
from tunesmith.data.formats.choose import LaidOut, choose_layout, layout_without_labels, rename
from tunesmith.data.formats.detect import kind_of, reader_of
from tunesmith.data.formats.files import Manner, RawFile, is_hidden, list_files, read_files
from tunesmith.data.formats.fits import refuse_larger_than_memory
from tunesmith.data.formats.labelled import UNLABELLED_READERS
from tunesmith.data.formats.layouts import Record
from tunesmith.data.formats.rows import LONGEST_ROW, RawRow, Unread
from tunesmith.data.formats.terms import refused_by, today
from tunesmith.data.formats.times import moment_of
from tunesmith.data.licences import refused_licence
from tunesmith.data.media.kinds import MEDIA_KINDS, MEDIA_LAYOUTS
from tunesmith.data.media.read import media_files
from tunesmith.data.notes import Note as Note
from tunesmith.data.table import SCHEMA, build_frame, media_value, turn_value
from tunesmith.recipe.places import is_local, local_path
from tunesmith.recipe.specs.data import Layout, SourceSpec
from tunesmith.recipe.specs.goal import ComplianceSpec
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

    It is "train" when the rows are split here. `licences` counts the readable rows by the licence that each has.
    """

    name: str
    split: str
    licence: str
    files: tuple[FileReport, ...]
    notes: tuple[Note, ...]
    licences: Mapping[str, int] = field(default_factory=dict)


def rows_by_licence(source: SourceReport) -> dict[str, int]:
    """Rows of a source by licence: those that can be read where they have several, else all that its files hold."""
    if len(source.licences) > 1 or set(source.licences) - {source.licence}:
        return dict(source.licences)
    return {source.licence: sum(file.rows for file in source.files)}


@dataclass(frozen=True)
class Reading:
    """What all sources of one run have in common; of rows that are not `labelled` text or tokens alone are read.

    `compliance` says which licences count, where rows state their own.
    """

    wanted: RowKind
    group_by: str | None
    seed: int
    labelled: bool = True
    time_by: str | None = None
    compliance: ComplianceSpec | None = None


@dataclass(frozen=True)
class _Part:
    """What the rows of a file have in common: their source, the document they are cut from, who agreed to what, and the
    day on which they are read."""

    source: str
    document: str
    terms: TermsSpec | None
    day: date
    licence: str
    licence_column: str | None
    licences: Counter[str]


def read_source(
    source: SourceSpec, split: str, folder: Path, reading: Reading, ledger: Ledger
) -> tuple[pl.DataFrame, SourceReport]:
    """Read a source into the canonical table; rows that cannot be used are dropped in the ledger with a reason.

    Errors: those of `list_files`, `read_file`, `detect_layout`, `find_entry`, `refuse_larger_than_memory`;
    data.missing_columns.
    """
    path, name = local_path(source, folder), source.title
    if not is_local(source) and not path.is_dir():
        raise TunesmithError("data.not_collected", source=name)
    licence = source.licence or str(lineage_of_source(source, path).get("licence", ""))
    notes = lineage_notes(source, path)
    if reading.wanted in MEDIA_KINDS:
        raws, stated = media_files(source, path, reading.wanted)
        columns = {ours: theirs for ours, theirs in source.columns.items() if ours != "file"}  # which was followed
        source = source.model_copy(update={"layout": stated, "columns": columns})
    else:
        _refuse_media(source, path, reading.wanted)
        taken, passed_over = list_files(path, source.split)
        notes = [*notes, *_notes_of(passed_over, path, source)]
        refuse_larger_than_memory(taken, source.address)
        raws = [raw for each in taken for raw in read_files(each, manner_of(source))]
        _refuse_idle(source, raws)
    several = sum(raw.document for raw in raws) > 1
    numbers = ledger.read(name, sum(len(raw.rows) for raw in raws))
    files: list[FileReport] = []
    frames: list[pl.DataFrame] = []
    licences: Counter[str] = Counter()
    place = 0
    for raw in raws:
        shown = _shown(raw.path, path, source.address)
        document = shown if raw.document and several else ""
        span = numbers[place : place + len(raw.rows)]
        frame, layout = read_raw(raw, source, name, span, reading, ledger, document, licence, licences)
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
    return frame, SourceReport(name, split, licence, tuple(files), tuple(notes), dict(licences))


def licences_of_rows(source: SourceSpec, folder: Path) -> list[str]:
    """The licence of every row that the files of a source hold, in their order. Errors: those of `read_source`."""
    path = local_path(source, folder)
    part = _Part(source.title, "", None, today(), source.licence, source.licence_column, Counter())
    taken, _ = list_files(path, source.split)
    return [_licence_of(row, part) for each in taken for raw in read_files(each, manner_of(source)) for row in raw.rows]


def _refuse_media(source: SourceSpec, path: Path, wanted: RowKind) -> None:
    """Errors: data.wrong_kind where a recipe wants words of pictures or sounds."""
    if source.layout in MEDIA_LAYOUTS:
        kind = kind_of(source.layout, wanted)
        raise TunesmithError("data.wrong_kind", path=str(path), layout=source.layout, kind=kind, wanted=wanted)


def manner_of(source: SourceSpec) -> Manner:
    """How the files of a source are read."""
    usual = Manner()
    return Manner(source.encoding or usual.encoding, source.chunk_size or usual.chunk_size, source.split, source.sheet)


def _refuse_idle(source: SourceSpec, raws: Sequence[RawFile]) -> None:
    """Errors: data.idle_source_setting where no file of a source is of the kind that a setting is about."""
    about = {
        "sheet": (source.sheet, any(raw.sheet for raw in raws)),
        "chunk_size": (source.chunk_size, any(raw.document for raw in raws)),
        "encoding": (source.encoding, any(raw.encoding != "binary" for raw in raws)),
    }
    for setting, (value, works) in about.items():
        if value is not None and not works:
            raise TunesmithError("data.idle_source_setting", setting=setting, path=source.address)


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
    own_licence: str | None = None,
    licences: Counter[str] | None = None,
) -> tuple[pl.DataFrame, Layout]:
    """The raw rows of a file, or of a part of one, in the canonical table, and their layout.

    Args:
        document: what its rows are cut from, where they must not part.
        own_licence: the source's, where it is known from elsewhere than the recipe.
        licences: counts the readable rows by their licence.

    Errors: those of `choose_layout` and `layout_without_labels`, data.undated_row.
    """
    choose = choose_layout if reading.labelled else layout_without_labels
    layout = choose(source, raw, reading.wanted)
    _require_licences(raw, source.licence_column)
    licence = source.licence if own_licence is None else own_licence
    counted: Counter[str] = Counter() if licences is None else licences
    part = _Part(name, document, source.terms, today(), licence, source.licence_column, counted)
    return _read_rows(raw, layout, part, numbers, reading, ledger), layout.layout


def _shown(file: Path, root: Path, stated: str) -> str:
    """A file's path as the recipe names it: a card that leaves the machine shows no home folder."""
    if file == root:
        return stated
    below = file.relative_to(root).as_posix()
    return f"{stated.rstrip('/')}/{below}" if "://" in stated or "#" in stated else (Path(stated) / below).as_posix()


def _read_rows(
    raw: RawFile, layout: LaidOut, part: _Part, numbers: range, reading: Reading, ledger: Ledger
) -> pl.DataFrame:
    """The one loop over rows: from odd nested values to the columns of the table."""
    refused: dict[Reason, list[int]] = {}
    cut: dict[int, int] = {}
    renamed: list[int] = []
    outvoted: dict[int, int] = {}
    columns: dict[str, list[object]] = {column: [] for column in SCHEMA}
    entries = ledger.entries()
    for number, row in zip(numbers, raw.rows, strict=True):
        try:
            record, group, time = _convert(row, layout, part, reading)
        except RowDefect as defect:
            refused.setdefault(defect.reason, []).append(number)
            continue
        part.licences[_licence_of(row, part)] += 1
        if record.cut:
            cut[number] = record.cut
        if record.outvoted:
            outvoted[number] = record.outvoted
        if layout.layout == "messages" and _has_other_roles(row, layout):
            renamed.append(number)
        _append(columns, record, number, part.source, entries[number].index, group, time)
    if len(refused.get("missing_columns", [])) == len(raw.rows):
        raise TunesmithError("data.missing_columns", path=str(raw.path), missing=layout.layout)
    for reason, rows in refused.items():
        ledger.decide(rows, "dropped", reason)
    ledger.decide(cut, "truncated", "trailing_turn", cut.values())
    ledger.change(renamed, "role_renamed")
    ledger.change(outvoted, "outvoted", outvoted.values())
    return build_frame(columns)


def _has_other_roles(row: RawRow, layout: LaidOut) -> bool:
    """Whether a turn's role is not one of OpenAI's, such as human and bot: it is read, and that is said."""
    turns = None if isinstance(row, Unread) else rename(row, layout.columns, only=layout.only).get("messages")
    stated = [turn.get("role") for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    return any(isinstance(role, str) and role not in _ROLES and role not in layout.keys.names for role in stated)


def _convert(row: RawRow, layout: LaidOut, part: _Part, reading: Reading) -> tuple[Record, str, datetime | None]:
    """What a row says, its group and its time. Raises RowDefect."""
    if isinstance(row, Unread):
        raise RowDefect(row.reason)
    refused = refused_by(part.terms, row, part.day) if part.terms else None
    if refused is not None:
        raise RowDefect(refused)
    forbidden = refused_licence(_licence_of(row, part), reading.compliance) if part.licence_column else None
    if forbidden is not None:
        raise RowDefect(forbidden)
    try:
        record = _record(rename(row, layout.columns, only=layout.only), layout, reading)
    except RecursionError:
        raise RowDefect("too_deep") from None
    group = _group(row, reading.group_by) or part.document
    _check_text(record, group)
    time = moment_of(row.get(reading.time_by)) if reading.time_by else None
    if reading.time_by and time is None:
        raise RowDefect("no_time")
    return record, group, time


def _licence_of(row: RawRow, part: _Part) -> str:
    """The licence that a row states itself, else that of its source."""
    stated = None if part.licence_column is None or isinstance(row, Unread) else row.get(part.licence_column)
    return str(stated).strip() if stated is not None and str(stated).strip() else part.licence


def _require_licences(raw: RawFile, column: str | None) -> None:
    """Errors: data.missing_columns where no row of a file has the column of licences."""
    if column is not None and not any(column in row for row in raw.rows if not isinstance(row, Unread)):
        raise TunesmithError("data.missing_columns", path=str(raw.path), missing=column)


def _record(row: Mapping[str, object], layout: LaidOut, reading: Reading) -> Record:
    """What a row says. Raises RowDefect."""
    if not reading.labelled:
        return UNLABELLED_READERS[reading.wanted](row, layout.keys)
    if layout.question is not None and (layout.layout == "label_studio" or layout.layout == "argilla"):
        return record_of(READ[layout.layout](row), layout.question, reading.wanted, layout.keys)
    return reader_of(layout.layout, reading.wanted)(row, layout.keys)


def _group(row: Mapping[str, object], column: str | None) -> str:
    value = None if column is None else row.get(column)
    return "" if value is None else str(value)


def _check_text(record: Record, group: str) -> None:
    """A lone surrogate (half of a character) can be written in JSON but not in UTF-8. Raises RowDefect."""
    pieces = [record.text, record.tools, group, *record.tokens, *record.labels]
    pieces += [record.media.path] if record.media else []
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


def _append(
    columns: dict[str, list[object]],
    record: Record,
    number: int,
    name: str,
    index: int,
    group: str,
    time: datetime | None,
) -> None:
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
        time,
        media_value(record.media),
        [asdict(box) for box in record.boxes],
        [],
    )
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


def _sample(frame: pl.DataFrame, rows: int, seed: int, ledger: Ledger) -> pl.DataFrame:
    chosen = random.Random(seed).sample(range(len(frame)), rows)
    kept = pl.Series("kept", [False] * len(frame)).scatter(sorted(chosen), True)
    reason: Reason = "not_sampled"
    ledger.decide(frame.filter(~kept)["row"], "dropped", reason)
    return frame.filter(kept)
