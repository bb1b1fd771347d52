"""Rows about pictures and sounds to one `Record`: their labels, their words, the boxes in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.core.types import Box, Media, RowKind
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import LABELS
from tunesmith.data.formats.layouts import Converter, Record, Row, first_of
from tunesmith.data.formats.turns import TurnKeys
from tunesmith.data.media.kinds import TRANSCRIPTS

_SLACK = 1.0
"""Pixels by which a box may leave its picture: what counting from 1 and rounding give. It is cut there."""


def reader_of_media(kind: RowKind) -> Converter:
    """What makes a record of a row of this kind."""
    return {"detection": _detected, "audio_text": _said}.get(kind, _of_class(kind))


def _of_class(kind: RowKind) -> Converter:
    def read(row: Row, _keys: TurnKeys) -> Record:
        named = first_of(row, LABELS)
        stated = row[named] if named else None
        label = str(stated).strip() if isinstance(stated, str | int) else ""
        if not label:
            raise RowDefect("empty_label")
        return Record(kind, media=_media(row), labels=(label,))

    return read


def _said(row: Row, _keys: TurnKeys) -> Record:
    named = first_of(row, TRANSCRIPTS)
    if named is None:
        raise RowDefect("missing_columns")
    words = row[named]
    if not isinstance(words, str):
        raise RowDefect("content_not_text")
    if not words.strip():
        raise RowDefect("empty_text")
    return Record("audio_text", text=words, media=_media(row))


def _detected(row: Row, _keys: TurnKeys) -> Record:
    """Boxes of the picture as people see it: where a size is stated, it must be that one. Raises RowDefect."""
    media, stated, boxes = _media(row), row.get("size"), row.get("boxes")
    if not isinstance(boxes, Sequence):
        raise RowDefect("missing_columns")
    size = (media.width, media.height)
    if isinstance(stated, tuple) and any(each not in (None, 0) for each in stated) and stated != size:
        raise RowDefect("size_differs")
    cut = tuple(_within(box, *size) for box in boxes if isinstance(box, Box))
    return Record("detection", media=media, boxes=cut, labels=tuple(box.label for box in cut))


def _within(box: Box, width: int, height: int) -> Box:
    """The box cut at the edges of its picture. Raises RowDefect where it is empty or leaves the picture."""
    left, top, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
    if min(left, top) < -_SLACK or right > width + _SLACK or bottom > height + _SLACK:
        raise RowDefect("bad_box")
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if right <= left or bottom <= top:
        raise RowDefect("bad_box")
    return replace(box, x=left, y=top, width=right - left, height=bottom - top)


def _media(row: Row) -> Media:
    media = row.get("media")
    if not isinstance(media, Media):
        raise RowDefect("missing_columns")
    return media
