"""Pascal VOC annotations: one XML file a picture. The reader unfolds no entity and follows no link.

Corners are taken as they stand, the lower right one as the end of the box: tools count pixels from 0 or from 1, and do
not say which.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.parsers import expat

from tunesmith.core.types import Box, Media
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.rows import RawRow, Unread
from tunesmith.data.media.folders import look
from tunesmith.data.media.places import files_below

MOST_BYTES = 2**22
_FOLDERS = ("", "images/", "JPEGImages/")
"""Where pictures lie below the folder, besides the folder of their XML file."""
_MOST_DEEP = 32


class _Annotation:
    """The words of every element by its way from the root, and where objects begin."""

    def __init__(self) -> None:
        self._way: list[str] = []
        self._words: list[str] = []
        self.picture: dict[str, str] = {}
        self.objects: list[dict[str, str]] = []
        self.parser = expat.ParserCreate()
        self.parser.StartDoctypeDeclHandler = self._refuse  # entities are declared nowhere else
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._words.append

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")

    def _start(self, name: str, _attributes: object) -> None:
        self._way.append(name)
        self._words.clear()
        if len(self._way) > _MOST_DEEP:
            raise ValueError("too deep")
        if self._way[1:] == ["object"]:
            self.objects.append({})

    def _end(self, _name: str) -> None:
        way, words = self._way[1:], "".join(self._words).strip()
        if way[:1] == ["object"] and len(way) > 1:
            self.objects[-1].setdefault("/".join(way[1:]), words)
        elif way:
            self.picture.setdefault("/".join(way), words)
        self._words.clear()
        self._way.pop()


def voc_rows(root: Path) -> Iterator[RawRow]:
    """A row an XML file below the folder, with the boxes of its picture."""
    for name in files_below(root, frozenset({".xml"})):
        try:
            yield _row(root, name)
        except RowDefect as defect:
            yield Unread(defect.reason, name)


def _row(root: Path, name: str) -> RawRow:
    path = root / name
    if path.is_symlink():
        raise RowDefect("media_link")
    if path.stat().st_size > MOST_BYTES:
        raise RowDefect("too_large")
    found = _Annotation()
    try:
        found.parser.Parse(path.read_bytes(), True)
        size = [int(found.picture[f"size/{each}"]) for each in ("width", "height")] if "size" in found.picture else None
        boxes = [_box(each) for each in found.objects]
    except (expat.ExpatError, ValueError, KeyError):
        raise RowDefect("bad_box") from None
    media = _picture(root, name, found.picture.get("filename", ""))
    return {"media": media, "boxes": boxes, "size": tuple(size) if size else (None, None), "file_name": media.path}


def _picture(root: Path, annotation: str, stated: str) -> Media:
    """The picture that an annotation names, beside it or in a folder for pictures. Raises RowDefect."""
    beside = annotation.rpartition("/")[0]
    folders = [f"{beside}/" if beside else "", *_FOLDERS]
    for folder in dict.fromkeys(folders):
        try:
            return look(root, folder + stated)
        except RowDefect as defect:
            if defect.reason != "media_missing":
                raise
    raise RowDefect("media_missing")


def _box(stated: dict[str, str]) -> Box:
    """Raises ValueError, KeyError."""
    left, top, right, bottom = (float(stated[f"bndbox/{each}"]) for each in ("xmin", "ymin", "xmax", "ymax"))
    if not stated["name"] or not all(map(math.isfinite, (left, top, right, bottom))):
        raise ValueError("a box without a place")
    return Box(stated["name"], left, top, right - left, bottom - top, stated.get("difficult") == "1")
