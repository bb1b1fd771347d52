"""Which layout a file is read by: what the recipe states, what a register beside the file states, or its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import RowKind
from tunesmith.data.annotations.items import Question
from tunesmith.data.annotations.rows import items_of, question_of
from tunesmith.data.formats.detect import detect_layout, kind_of
from tunesmith.data.formats.files import RawFile
from tunesmith.data.formats.registry import find_entry
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.formats.turns import USUAL_KEYS, TurnKeys
from tunesmith.recipe.specs.data import Layout, SourceSpec


@dataclass(frozen=True)
class LaidOut:
    """How the rows of one file are read. `columns` maps our names to the file's."""

    layout: Layout
    columns: Mapping[str, str]
    only: bool
    """Whether columns that are not mapped are left out, as LLaMA-Factory's register means it."""
    keys: TurnKeys
    question: Question | None = None
    """What is learned of rows that people annotated."""


def choose_layout(source: SourceSpec, raw: RawFile, wanted: RowKind) -> LaidOut:
    """How to read a file.

    Errors: those of `detect_layout`, `find_entry` and `question_of`; data.missing_columns, data.wrong_kind,
    data.question_of_nobody.
    """
    present = _present(raw, source.columns)
    entry = find_entry(raw.path, wanted) if source.layout == "auto" and not source.columns else None
    if entry is not None:
        _require(entry.needed, present, raw.path)
        chosen = LaidOut(entry.layout, entry.columns, True, entry.keys)
    else:
        _require(frozenset(source.columns.values()), present, raw.path)
        layout = source.layout
        renamed = [row if isinstance(row, Unread) else rename(row, source.columns, only=False) for row in raw.rows]
        if layout == "auto":
            layout = detect_layout(renamed, wanted, raw.path)
        chosen = LaidOut(
            layout, source.columns, False, USUAL_KEYS, _question(source, renamed, layout, wanted, raw.path)
        )
    kind = kind_of(chosen.layout, wanted)
    if kind != wanted:
        raise TunesmithError("data.wrong_kind", path=str(raw.path), layout=chosen.layout, kind=kind, wanted=wanted)
    return chosen


def _question(
    source: SourceSpec, rows: Sequence[RawRow], layout: Layout, wanted: RowKind, path: Path
) -> Question | None:
    """The question that rows of annotators answer. Errors: those of `question_of`; data.question_of_nobody."""
    if layout != "label_studio" and layout != "argilla":
        if source.question is not None:
            raise TunesmithError("data.question_of_nobody", path=str(path), layout=layout, question=source.question)
        return None
    if kind_of(layout, wanted) != wanted:
        return None  # refused for its kind by the caller
    return question_of(items_of(rows, layout), wanted, source.question, path)


def layout_without_labels(source: SourceSpec, raw: RawFile, wanted: RowKind) -> LaidOut:
    """Of a file of which texts or tokens alone are read.

    Errors: data.missing_columns, data.wrong_kind where the recipe states what holds none.
    """
    if source.layout not in ("auto", "text", wanted):
        kind = kind_of(source.layout, wanted)
        raise TunesmithError("data.wrong_kind", path=str(raw.path), layout=source.layout, kind=kind, wanted="text")
    _require(frozenset(source.columns.values()), _present(raw, source.columns), raw.path)
    return LaidOut("text", source.columns, False, USUAL_KEYS)


def _present(raw: RawFile, columns: Mapping[str, str]) -> set[str]:
    """Names of a file's columns, and of the parts of objects that the recipe names by a dot."""
    rows = [row for row in raw.rows if not isinstance(row, Unread)]
    found = {column for row in rows for column in row}
    dotted = {name for name in columns.values() if "." in name} - found
    return found | {name for name in dotted if any(_part_of(row, name) is not None for row in rows)}


def _part_of(row: Mapping[str, object], dotted: str) -> object:
    """A column, or a part of the object in one: data.review is row["data"]["review"]. None where there is none."""
    if dotted in row:
        return row[dotted]
    outer, _, inner = dotted.partition(".")
    within = row.get(outer)
    return _part_of(within, inner) if inner and isinstance(within, Mapping) else None


def _require(columns: frozenset[str], present: set[str], path: Path) -> None:
    missing = sorted(columns - present)
    if missing:
        raise TunesmithError("data.missing_columns", path=str(path), missing=", ".join(missing))


def rename(row: Mapping[str, object], columns: Mapping[str, str], *, only: bool) -> Mapping[str, object]:
    """A row by our names of its columns."""
    if not columns:
        return row
    parts = {ours: _part_of(row, theirs) for ours, theirs in columns.items() if "." in theirs and theirs not in row}
    mapped = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
    mapped |= {ours: part for ours, part in parts.items() if part is not None}
    if only:
        return mapped
    theirs_used = set(columns.values())
    return {name: value for name, value in row.items() if name not in theirs_used} | mapped
