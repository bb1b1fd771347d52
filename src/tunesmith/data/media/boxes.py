"""Boxes that stand in a table beside its pictures: lists as COCO has them, or the `objects` of the Hugging Face hub.

    objects: {bbox: [[x, y, width, height], ...], category: [...]}      a structure of lists
    objects: [{bbox: [x, y, width, height], category: ...}, ...]        a list of structures
    boxes: [[x, y, width, height], ...], labels: [...]                  two columns

A cell of a text table holds any of them as JSON. Numbers are pixels from the upper left corner of the picture as people
see it; classes are names, or numbers whose names the file itself knows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from tunesmith.core.types import Box
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.layouts import first_of
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.media.kinds import BOXES

_PLACE = ("bbox", "box", "boxes", "bboxes")
_CLASS = ("category", "categories", "label", "labels", "category_id", "class", "classes", "name")
_CROWD = "iscrowd"


def boxed(row: RawRow, columns: Mapping[str, str], names: Sequence[str] = ()) -> RawRow:
    """A row with what its cells say of boxes as boxes, or why it cannot be used.

    Args:
        columns: the recipe's names of columns: `boxes` and `labels` may say which ones are meant.
        names: of the classes that are numbers, by these numbers.
    """
    if isinstance(row, Unread):
        return row
    try:
        column = columns.get("boxes") or first_of(row, BOXES)
        if column is None or column not in row:
            raise RowDefect("missing_columns")
        stated = _parsed(row[column])
        labels = _parsed(row.get(columns.get("labels") or first_of(row, _CLASS) or ""))
        boxes = [_box(each, names) for each in _objects(stated, labels)]
        return {**row, column: boxes, "boxes": boxes}  # where the recipe names the column, that one becomes `boxes`
    except RowDefect as defect:
        return Unread(defect.reason, str(row.get("file_name") or ""))


def _parsed(cell: object) -> object:
    """What a cell of a text table says. Raises RowDefect."""
    if not isinstance(cell, str) or cell.lstrip()[:1] not in ("[", "{"):
        return cell
    try:
        found: object = json.loads(cell)
    except (ValueError, RecursionError):
        raise RowDefect("bad_box") from None
    return found


def _objects(stated: object, labels: object) -> list[tuple[object, object, object]]:
    """Place, class and whether it is a crowd, of each box; a picture may have none. Raises RowDefect."""
    if stated is None or stated == "":
        return []
    if isinstance(stated, Mapping):
        place, label = first_of(stated, _PLACE), first_of(stated, _CLASS)
        if place is None or label is None:
            raise RowDefect("bad_box")
        return _side_by_side(stated[place], stated[label], stated.get(_CROWD))
    if not isinstance(stated, Sequence) or isinstance(stated, str | bytes):
        raise RowDefect("bad_box")
    if not all(isinstance(each, Mapping) for each in stated):
        return _side_by_side(stated, labels, None)
    found = []
    for each in stated:
        place, label = first_of(each, _PLACE), first_of(each, _CLASS)
        found.append((each[place] if place else None, each[label] if label else None, each.get(_CROWD)))
    return found


def _side_by_side(places: object, labels: object, crowds: object) -> list[tuple[object, object, object]]:
    lists = [places, labels, *([crowds] if crowds is not None else [])]
    if not all(isinstance(each, Sequence) and not isinstance(each, str | bytes) for each in lists):
        raise RowDefect("bad_box")
    sequences = [list(each) for each in lists if isinstance(each, Sequence)]
    if len({len(each) for each in sequences}) != 1:
        raise RowDefect("bad_box")
    filled = sequences if crowds is not None else [*sequences, [None] * len(sequences[0])]
    return list(zip(filled[0], filled[1], filled[2], strict=True))


def _box(one: tuple[object, object, object], names: Sequence[str]) -> Box:
    """Raises RowDefect."""
    place, label, crowd = one
    if not isinstance(place, Sequence) or isinstance(place, str | bytes) or len(place) != 4:
        raise RowDefect("bad_box")
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in place):
        raise RowDefect("bad_box")
    x, y, width, height = (float(each) for each in place)
    return Box(_named(label, names), x, y, width, height, crowd in (1, True))


def _named(label: object, names: Sequence[str]) -> str:
    if isinstance(label, int) and not isinstance(label, bool) and names:
        if not 0 <= label < len(names):
            raise RowDefect("label_without_name")
        return names[label]
    said = str(label).strip() if isinstance(label, str | int) and not isinstance(label, bool) else ""
    if not said:
        raise RowDefect("empty_label")
    return said
