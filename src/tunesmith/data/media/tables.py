"""Pictures and sounds that stand in the cells of Parquet and Arrow files, as the Hugging Face hub keeps them.

A cell is a structure of `bytes` and `path`, or bytes alone. Classes may be numbers whose names stand in the file's own
metadata (`ClassLabel` of the `datasets` library). A cell has a name, `cell:ROW:FILE:COLUMN`, which no file can have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Media, MediaKind
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import LABELS
from tunesmith.data.formats.layouts import first_of
from tunesmith.data.formats.rows import RawRow, Unread, listed
from tunesmith.data.formats.unpack import FREE_BYTES, MOST_RATIO
from tunesmith.data.media.columnar import COLUMNAR, cell_of, rows_of_table, schema_of
from tunesmith.data.media.images import look_at_image
from tunesmith.data.media.kinds import BOXES, FILES, TRANSCRIPTS
from tunesmith.data.media.places import inside
from tunesmith.data.media.sounds import form_of_sound, look_at_sound

_CELL = "cell:"
_USUAL = (*FILES, "img")
Look = Callable[[Path, str], Media]


@dataclass(frozen=True)
class _Layout:
    """Which column holds the media, and the names of the classes by column; `sounds` where the file says which."""

    column: str
    classes: Mapping[str, Sequence[str]]
    sounds: bool | None
    columns: tuple[str, ...]


def is_cell(name: str) -> bool:
    """Whether a name is that of a cell."""
    return name.startswith(_CELL)


def holds_cells(path: Path) -> bool:
    """Whether a file is a table with pictures or sounds in it. A broken one is left to whoever reads it."""
    if path.suffix.lower() not in COLUMNAR or not path.is_file():
        return False
    try:
        return bool(_candidates(schema_of(path)))
    except TunesmithError:
        return False


def kind_of_cells(path: Path) -> MediaKind | None:
    """What the rows of such a file are, told from its columns and, where these are silent, from its first cell.

    None where no column says what is seen or heard.
    """
    if not holds_cells(path):
        return None
    try:
        layout = _layout(path, None)
        sounds = _begins_with_a_sound(path, layout) if layout.sounds is None else layout.sounds
    except TunesmithError:
        return None
    if sounds and set(layout.columns) & set(TRANSCRIPTS):
        return "audio_text"
    if not sounds and set(layout.columns) & set(BOXES):
        return "detection"
    if not set(layout.columns) & set(LABELS):
        return None
    return "audio_class" if sounds else "image_class"


def cell_rows(root: Path, path: Path, columns: Mapping[str, str], kind: str, look: Look) -> Iterator[RawRow]:
    """A row of a table each, with the picture or the sound in it, or why there is none.

    Args:
        root: the folder of the source, where the names of files in cells begin.
        columns: the recipe's names of columns: `file` may say which one holds the media.
        look: what is in a file below `root`, where a cell only names one.

    Errors: data.media_columns, data.broken_file, data.unpacks_too_far.
    """
    layout = _layout(path, columns.get("file"))
    most, seen = max(FREE_BYTES, MOST_RATIO * path.stat().st_size), 0
    place = path.relative_to(root).as_posix()
    look_at = look_at_sound if kind.startswith("audio") else look_at_image
    for number, row in enumerate(rows_of_table(path)):
        name = f"{_CELL}{number}:{place}:{layout.column}"
        content, file = _parts(row.pop(layout.column))
        seen += len(content or b"")
        if seen > most:
            raise TunesmithError("data.unpacks_too_far", path=str(path), most_mb=most // 2**20)
        try:
            named = _with_names(row, layout, columns.get("label") or first_of(row, LABELS))
            if content is not None:
                yield {**named, "media": look_at(content, name)}
            elif file:
                yield {**named, "media": look(root, file)}
            else:
                raise RowDefect("media_missing")
        except RowDefect as defect:
            yield Unread(defect.reason, name)


def names_of_boxes(path: Path, column: str) -> list[str]:
    """The names of the classes of boxes, by their numbers, as the file itself states them; none where it does not."""
    features = _features(schema_of(path))
    waiting: list[object] = [features.get(column), *(features.get(name) for name in ("labels", "categories"))]
    while waiting:
        feature = waiting.pop(0)
        if isinstance(feature, dict):
            names = feature.get("names")
            if feature.get("_type") == "ClassLabel" and isinstance(names, list):
                return [str(each) for each in names]
            waiting += feature.values()
        elif isinstance(feature, list):
            waiting += feature
    return []


def content_of_cell(root: Path, name: str) -> bytes | None:
    """The bytes in a cell, by its name. Raises RowDefect where the name leads elsewhere. Errors: data.broken_file."""
    number, _, rest = name.removeprefix(_CELL).partition(":")
    file, _, column = rest.rpartition(":")
    return _parts(cell_of(inside(root, file), column, int(number)))[0]


def _parts(cell: object) -> tuple[bytes | None, str]:
    """The bytes of a cell, and the file that it names."""
    if isinstance(cell, Mapping):
        content, file = cell.get("bytes"), cell.get("path")
        return (content if isinstance(content, bytes) else None), (file if isinstance(file, str) else "")
    return (cell if isinstance(cell, bytes) else None), ""


def _with_names(row: dict[str, object], layout: _Layout, labelled: str | None) -> dict[str, object]:
    """The row with names of classes for their numbers; -1 is the library's word for none. Raises RowDefect."""
    for column, names in layout.classes.items():
        number = row.get(column)
        if not isinstance(number, int):
            continue
        known = 0 <= number < len(names)
        if column == labelled and not known and number != -1:
            raise RowDefect("label_without_name")
        row[column] = names[number] if known else None
    return row


def _layout(path: Path, stated: str | None) -> _Layout:
    """Errors: data.media_columns where it is not clear which column holds the media, data.missing_columns."""
    schema = schema_of(path)
    found = _candidates(schema)
    if stated is not None and stated not in schema.names:
        raise TunesmithError("data.missing_columns", path=str(path), missing=stated)
    usual = [name for name in _USUAL if name in found]
    choice = [stated] if stated in found else found if len(found) == 1 else usual
    if not choice or (stated is not None and stated not in found) or ":" in str(choice[0]):
        raise TunesmithError("data.media_columns", path=str(path), columns=listed(found or schema.names))
    column, features = str(choice[0]), _features(schema)
    kind = features.get(column, {}).get("_type")
    sounds = {"Image": False, "Audio": True}.get(str(kind), {"image": False, "img": False, "audio": True}.get(column))
    classes = {
        name: [str(each) for each in names]
        for name, feature in features.items()
        if feature.get("_type") == "ClassLabel" and isinstance(names := feature.get("names"), list)
    }
    return _Layout(column, classes, sounds, tuple(schema.names))


def _candidates(schema: pa.Schema) -> list[str]:
    """Columns that hold bytes, alone or beside the name of a file."""
    return [field.name for field in schema if _is_binary(field.type) or _holds_bytes(field.type)]


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and any(
        kind.field(n).name == "bytes" and _is_binary(kind.field(n).type) for n in range(kind.num_fields)
    )


def _features(schema: pa.Schema) -> dict[str, dict[str, object]]:
    """What the `datasets` library says of the columns, by their names; nothing where it did not write the file."""
    try:
        stated = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = stated["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _begins_with_a_sound(path: Path, layout: _Layout) -> bool:
    """Whether the first cell with bytes in it begins like a sound."""
    for row in rows_of_table(path):
        content, _ = _parts(row[layout.column])
        if content:
            return bool(form_of_sound(content))
    return False
