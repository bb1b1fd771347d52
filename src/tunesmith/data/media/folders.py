"""Folders of pictures or sounds: a class a folder, or a table that says what each file shows or says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Media
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.files import RawFile, read_file
from tunesmith.data.formats.layouts import first_of
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.media.images import look_at_image
from tunesmith.data.media.kinds import FILES, SOUNDS, TABLES
from tunesmith.data.media.places import files_below, inside
from tunesmith.data.media.sounds import look_at_sound

SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev"})


def look(root: Path, name: str) -> Media:
    """The picture or the sound in a file below a folder. Raises RowDefect."""
    path = inside(root, name)
    return look_at_sound(path, name) if path.suffix.lower() in SOUNDS else look_at_image(path, name)


def class_rows(root: Path, suffixes: frozenset[str]) -> Iterator[RawRow]:
    """A row a file; its class is the folder that it lies in, the first one below `root`.

    Errors: data.media_split_folders.
    """
    names = list(files_below(root, suffixes))
    classes = {name.split("/")[0] for name in names if "/" in name}
    if classes and classes <= SPLITS:
        raise TunesmithError("data.media_split_folders", path=str(root), folders=", ".join(sorted(classes)))
    for name in names:
        yield about(root, name, {"label": name.split("/")[0]} if "/" in name else {})


def table_rows(root: Path, table: RawFile, columns: Mapping[str, str]) -> Iterator[RawRow]:
    """A row of a table each, with the file that it names."""
    for row in table.rows:
        if isinstance(row, Unread):
            yield row
            continue
        named = columns.get("file") or first_of(row, FILES)
        file = row.get(named) if named else None
        yield about(root, file, row) if isinstance(file, str) else Unread("missing_columns", str(row))


def about(root: Path, name: str, row: Mapping[str, object]) -> RawRow:
    """The row with the file that it is about, or why there is none."""
    try:
        return {**row, "media": look(root, name)}
    except RowDefect as defect:
        return Unread(defect.reason, name)


def table_in(root: Path) -> RawFile | None:
    """The table in a folder, where there is one."""
    found = next((root / name for name in TABLES if (root / name).is_file()), None)
    return None if found is None else read_file(found)
