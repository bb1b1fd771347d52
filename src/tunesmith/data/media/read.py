"""A source of pictures or sounds to raw rows, and which kind of rows a folder holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file
from tunesmith.core.types import Media, MediaKind, RowKind
from tunesmith.data.formats.files import NOT_ROWS, RawFile, read_file
from tunesmith.data.formats.kinds import ROWS
from tunesmith.data.formats.layouts import first_of
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.media.boxes import boxed
from tunesmith.data.media.coco import coco_rows, is_coco
from tunesmith.data.media.columnar import COLUMNAR, schema_of
from tunesmith.data.media.folders import SPLITS, class_rows, look, table_in, table_rows
from tunesmith.data.media.kinds import BOXES, FILES, IMAGES, SOUNDS, TABLES, TRANSCRIPTS, suffixes_of
from tunesmith.data.media.places import files_below
from tunesmith.data.media.tables import cell_rows, holds_cells, kind_of_cells, names_of_boxes
from tunesmith.data.media.voc import voc_rows
from tunesmith.data.notes import Note
from tunesmith.recipe.specs.sources import Layout, SourceSpec

_TEXT_TABLES = (".csv", ".tsv", ".jsonl")


def media_files(source: SourceSpec, path: Path, kind: RowKind) -> tuple[list[RawFile], Layout]:
    """The rows of a source, as one file, and how they are laid out.

    Errors: data.missing_path, data.empty_folder, data.wrong_kind, those of `coco_rows`, `class_rows` and `cell_rows`.
    """
    if not os.path.exists(path):
        raise TunesmithError("data.missing_path", path=str(path))
    layout = _layout(source, path, kind)
    if layout in ("coco", "voc"):
        return [_detections(path, layout)], layout
    cells = _tables_with_cells(path)
    if cells:
        return _from_cells(source, path, cells, kind), layout
    root, table = (path, table_in(path)) if path.is_dir() else (path.parent, read_file(path))
    if table is None:
        return [_file(path, class_rows(root, suffixes_of(kind)))], layout
    rows = table_rows(root, table, source.columns)
    if kind == "detection":
        rows = (boxed(row, source.columns) for row in rows)
    found = replace(table, rows=list(rows))
    return [replace(found, notes=(*found.notes, *_unlisted(root, found.rows, kind)))], layout


def kind_of_place(path: Path) -> MediaKind | None:
    """What a file or a folder holds, where that is pictures or sounds."""
    if os.path.isfile(path):  # which takes a name that no system can have for a missing one
        return "detection" if path.suffix.lower() == ".json" and is_coco(path) else kind_of_cells(path)
    tables = [path / name for name in files_below(path, frozenset(ROWS)) if _holds_rows(path / name)]
    if tables:  # pictures beside rows of words: what the rows say of them is not known
        kinds = {kind_of_cells(table) for table in tables}
        return kinds.pop() if len(kinds) == 1 else None
    names = set(map(os.path.basename, files_below(path, IMAGES | SOUNDS | {".xml"})))
    suffixes = {Path(name).suffix.lower() for name in names}
    if suffixes & IMAGES:
        table = table_in(path)
        in_table = table is not None and any(not isinstance(row, Unread) and first_of(row, BOXES) for row in table.rows)
        annotated = ".xml" in suffixes or _coco_in(path) is not None or in_table
        return "detection" if annotated else "image_class"
    if not suffixes & SOUNDS:
        return None
    table = table_in(path)
    said = table is not None and any(not isinstance(row, Unread) and first_of(row, TRANSCRIPTS) for row in table.rows)
    return "audio_text" if said else "audio_class"


def _holds_rows(path: Path) -> bool:
    """Whether a file of rows says anything else than what is in pictures and sounds."""
    return path.name not in (*TABLES, *NOT_ROWS) and not (path.suffix.lower() == ".json" and is_coco(path))


def _tables_with_cells(path: Path) -> list[Path]:
    """The tables that hold pictures or sounds themselves: the file, or those of a folder without a table of names.

    Errors: data.media_split_folders.
    """
    if not path.is_dir():
        return [path] if holds_cells(path) else []
    if any((path / name).is_file() for name in TABLES):
        return []
    found = [path / name for name in files_below(path, COLUMNAR)]
    found = [each for each in found if holds_cells(each)]
    splits = {each.stem.split("-")[0] for each in found} & SPLITS
    if len(splits) > 1:
        raise TunesmithError("data.media_split_folders", path=str(path), folders=", ".join(sorted(splits)))
    return found


def _from_cells(source: SourceSpec, path: Path, tables: list[Path], kind: RowKind) -> list[RawFile]:
    """A file each table. Errors: those of `cell_rows`, data.empty_file."""
    root = path if path.is_dir() else path.parent
    files: list[RawFile] = []
    for table in tables:
        rows = list(cell_rows(root, table, source.columns, kind, look))
        if kind == "detection":
            names = names_of_boxes(table, _column_of_boxes(source, table))
            rows = [boxed(row, source.columns, names) for row in rows]
        if not rows:
            raise TunesmithError("data.empty_file", path=str(table))
        files.append(RawFile(table, sha256_file(table), table.stat().st_size, "binary", False, rows))
    loose = _unlisted(root, (), kind) if path.is_dir() else []
    return [replace(files[0], notes=(*loose,)), *files[1:]]


def _layout(source: SourceSpec, path: Path, kind: RowKind) -> Layout:
    """Errors: data.wrong_kind."""
    fits: tuple[Layout, ...] = ("audio_folder",) if kind.startswith("audio") else ("image_folder",)
    if kind == "detection" and _has_boxes_in_a_table(path):
        fits = ("image_folder",)
    elif kind == "detection":
        fits = ("voc", "coco") if path.is_dir() and _coco_in(path) is None else ("coco", "voc")
    if source.layout == "auto":
        return fits[0]
    if source.layout not in fits:
        raise TunesmithError("data.wrong_kind", path=str(path), layout=source.layout, kind=source.layout, wanted=kind)
    return source.layout


def _has_boxes_in_a_table(path: Path) -> bool:
    """Whether what is told of boxes stands in a table: the file, or one of a folder without annotations."""
    if not path.is_dir():
        return path.suffix.lower() in (*COLUMNAR, *_TEXT_TABLES)
    annotated = _coco_in(path) is not None or any(files_below(path, frozenset({".xml"})))
    return not annotated and (table_in(path) is not None or any(files_below(path, COLUMNAR)))


def _column_of_boxes(source: SourceSpec, table: Path) -> str:
    """Errors: data.missing_columns."""
    known = schema_of(table).names
    column = source.columns.get("boxes") or next((name for name in BOXES if name in known), None)
    if column is None or column not in known:
        raise TunesmithError("data.missing_columns", path=str(table), missing=column or BOXES[0])
    return column


def _coco_in(folder: Path) -> Path | None:
    """The one file of COCO annotations in a folder."""
    found = [path for path in sorted(folder.glob("*.json")) if is_coco(path)]
    return found[0] if len(found) == 1 else None


def _detections(path: Path, layout: Layout) -> RawFile:
    if layout == "voc":
        return _file(path, voc_rows(path))
    annotations = _coco_in(path) if path.is_dir() else path
    if annotations is None:
        raise TunesmithError("data.coco_wrong", path=str(path), what="annotations.json")
    return replace(_file(annotations, coco_rows(annotations)), sha256=sha256_file(annotations))


def _file(path: Path, rows: Iterable[RawRow]) -> RawFile:
    """Rows as one file, whose hash is that of the files it is about. Errors: data.empty_folder."""
    listed = list(rows)
    if not listed:
        raise TunesmithError("data.empty_folder", path=str(path), suffixes=" ".join(sorted(IMAGES | SOUNDS)))
    media = [each for row in listed if not isinstance(row, Unread) and isinstance(each := row.get("media"), Media)]
    digest = hashlib.sha256("".join(f"{each.sha256} {each.path}\n" for each in media).encode("utf-8", "replace"))
    return RawFile(path, digest.hexdigest(), sum(each.bytes for each in media), "binary", False, listed)


def _unlisted(root: Path, rows: Iterable[RawRow], kind: RowKind) -> list[Note]:
    """How many files a table passes over."""
    named = {str(row[name]) for row in rows if not isinstance(row, Unread) and (name := first_of(row, FILES))}
    left = [name for name in files_below(root, suffixes_of(kind)) if name not in named]
    return [Note("data.media_unlisted", {"files": len(left), "first": left[0]})] if left else []
