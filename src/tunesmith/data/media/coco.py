"""COCO annotations: one JSON file of images, categories and boxes (cocodataset.org, "Data format")."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import Box
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.media.folders import look

MOST_BYTES = 2**30
_LISTS = ("images", "annotations", "categories")
_FOLDER = "images"
"""Where pictures lie that do not lie beside the file."""


def is_coco(path: Path) -> bool:
    """Whether a JSON file holds COCO annotations."""
    try:
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
        if not all(f'"{name}"'.encode() in content for name in _LISTS):
            return False
        found = json.loads(content)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and all(isinstance(found.get(name), list) for name in _LISTS)


def coco_rows(path: Path) -> Iterator[RawRow]:
    """A row a picture, with its boxes; a picture without any is a row as well.

    Errors: data.coco_wrong.
    """
    document = _document(path)
    images, annotations, categories = (_objects(path, document, name) for name in _LISTS)
    names = {_id(path, each, "categories"): each.get("name") for each in categories}
    known = {_id(path, each, "images") for each in images}
    if len(names) < len(categories) or len(known) < len(images):
        raise _wrong(path, "id")
    boxes: dict[int, list[Box | None]] = {}
    for each in annotations:
        image, category = each.get("image_id"), each.get("category_id")
        if image not in known or category not in names:
            raise _wrong(path, "annotations.image_id, annotations.category_id")
        boxes.setdefault(int(str(image)), []).append(_box(each, names[int(str(category))]))
    for image_row in images:
        yield _row(path.parent, image_row, boxes.get(_id(path, image_row, "images"), []))


def _row(folder: Path, image: Mapping[str, object], boxes: list[Box | None]) -> RawRow:
    name = str(image.get("file_name") or "")
    if any(box is None for box in boxes):
        return Unread("bad_box", name)
    try:
        try:
            media = look(folder, name)
        except RowDefect as defect:
            if defect.reason != "media_missing":
                raise
            media = look(folder, f"{_FOLDER}/{name}")
    except RowDefect as defect:
        return Unread(defect.reason, name)
    stated = (image.get("width"), image.get("height"))
    return {"media": media, "boxes": boxes, "size": stated, "file_name": name}


def _box(annotation: Mapping[str, object], label: object) -> Box | None:
    """None where the numbers are none, or name no place."""
    stated = annotation.get("bbox")
    if not isinstance(stated, list) or len(stated) != 4 or not isinstance(label, str) or not label.strip():
        return None
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in stated):
        return None
    x, y, width, height = (float(each) for each in stated)
    return Box(label, x, y, width, height, annotation.get("iscrowd") == 1)


def _document(path: Path) -> object:
    """Errors: data.coco_wrong."""
    if path.stat().st_size > MOST_BYTES:
        raise _wrong(path, "size")
    try:
        found: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise _wrong(path, "JSON") from None
    return found


def _objects(path: Path, document: object, name: str) -> list[Mapping[str, object]]:
    """One of the lists of the file. Errors: data.coco_wrong."""
    listed = document.get(name) if isinstance(document, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise _wrong(path, name)
    return listed


def _id(path: Path, each: Mapping[str, object], name: str) -> int:
    stated = each.get("id")
    if not isinstance(stated, int) or isinstance(stated, bool):
        raise _wrong(path, f"{name}.id")
    return stated


def _wrong(path: Path, what: str) -> TunesmithError:
    return TunesmithError("data.coco_wrong", path=str(path), what=what)
