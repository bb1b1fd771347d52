"""Which layout a file has, told from its columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import RowKind
from tunesmith.data.annotations.rows import KINDS, TOOLS, tool_of
from tunesmith.data.defects import RowDefect, spoken
from tunesmith.data.formats.labelled import LABELLED_READERS, is_text_class, is_token_class
from tunesmith.data.formats.layouts import ANSWERS, CHAT_READERS, QUERIES, Converter, Row
from tunesmith.data.formats.logs import FEEDBACK_READERS, is_feedback, is_request_log, read_request_log
from tunesmith.data.formats.pairs import PAIR_READERS, read_label
from tunesmith.data.formats.rows import RawRow, Unread, listed
from tunesmith.data.media.kinds import MEDIA_LAYOUTS
from tunesmith.data.media.records import reader_of_media
from tunesmith.recipe.specs.data import Layout

READERS: Mapping[str, Converter] = {
    **CHAT_READERS,
    **PAIR_READERS,
    **LABELLED_READERS,
    "request_log": read_request_log,
}
_SPECIAL_KINDS: Mapping[str, RowKind] = {
    "text": "text",
    "preference": "preference",
    "kto": "kto",
    "text_class": "text_class",
    "token_class": "token_class",
    "image_folder": "image_class",
    "coco": "detection",
    "voc": "detection",
    "audio_folder": "audio_class",
}
_LISTS = ("messages", "conversations", "conversation")


def kind_of(layout: Layout, wanted: RowKind) -> RowKind:
    """The kind of row that a layout holds. Feedback and annotations give several, so what is wanted if they can."""
    if layout == "feedback" and wanted in FEEDBACK_READERS:
        return wanted
    if (layout, wanted) in (("audio_folder", "audio_text"), ("image_folder", "detection")):
        return wanted
    if layout in TOOLS:
        return wanted if wanted in KINDS else "text_class"
    return _SPECIAL_KINDS.get(layout, "chat")


def reader_of(layout: Layout, wanted: RowKind) -> Converter:
    """What makes a record of a row in this layout."""
    if layout in MEDIA_LAYOUTS:
        return reader_of_media(wanted)
    return FEEDBACK_READERS[wanted] if layout == "feedback" else READERS[layout]


def _is_preference(row: Row) -> bool:
    rejected_beside = "messages" in row and ("rejected_response" in row or "rejected_messages" in row)
    outputs = "preferred_output" in row and "non_preferred_output" in row
    return rejected_beside or outputs or ("chosen" in row and "rejected" in row)


def _is_kto(row: Row) -> bool:
    answered = any(name in row for name in _LISTS) or ("prompt" in row and "completion" in row)
    return "kto_tag" in row or (answered and "label" in row and _is_label(row["label"]))


def _is_label(value: object) -> bool:
    try:
        read_label(value)
    except RowDefect:
        return False
    return True


def _is_query_response(row: Row) -> bool:
    return any(name in row for name in QUERIES) and any(name in row for name in ANSWERS)


_RULES: Sequence[tuple[Layout, Callable[[Row], bool]]] = (
    ("feedback", is_feedback),
    ("request_log", is_request_log),
    ("preference", _is_preference),
    ("kto", _is_kto),
    ("messages", lambda row: "messages" in row),
    ("sharegpt", lambda row: "conversations" in row or "conversation" in row),
    ("alpaca", lambda row: "instruction" in row and "output" in row),
    ("prompt_completion", lambda row: "prompt" in row and "completion" in row),
    ("query_response", _is_query_response),
    ("text", lambda row: "text" in row or set(row) == {"content"}),
)


def layout_of_row(row: Row, wanted: RowKind) -> Layout | None:
    """The layout of one row, None when its columns tell of none.

    `wanted` decides where columns allow more than one reading: a question, an answer and a label are a KTO row for
    a stage that wants such rows; a row with a `text` beside other columns is text for a stage that wants text, and a
    row of classes for one that wants these.
    """
    tool = tool_of(row)
    if tool is not None:
        return tool
    if wanted == "kto" and "label" in row and _is_query_response(row):
        return "kto"
    if wanted == "text" and "text" in row:
        return "text"
    if wanted == "text_class" and is_text_class(row):
        return "text_class"
    if wanted == "token_class" and is_token_class(row):
        return "token_class"
    return next((layout for layout, fits in _RULES if fits(row)), None)


def detect_layout(rows: Sequence[RawRow], wanted: RowKind, path: Path) -> Layout:
    """The one layout of a file's rows. Rows that show none are left to the reader, which refuses each of them.

    Errors: data.no_row_readable, data.unknown_layout, data.mixed_layouts (with the first row of each).
    """
    first: dict[Layout, int] = {}
    columns: set[str] = set()
    for number, row in enumerate(rows):
        if isinstance(row, Unread):
            continue
        columns.update(row)
        layout = layout_of_row(row, wanted)
        if layout is not None:
            first.setdefault(layout, number)
    if not first:
        unread = Counter(row.reason for row in rows if isinstance(row, Unread))
        if len(rows) == unread.total():
            reason = spoken(unread.most_common(1)[0][0])
            raise TunesmithError("data.no_row_readable", path=str(path), rows=len(rows), reason=reason)
        raise TunesmithError(
            "data.unknown_layout",
            path=str(path),
            columns=listed(columns),
            layouts=", ".join(each for each in get_args(Layout) if each != "auto"),
        )
    if len(first) > 1:
        (one, place), (other, other_place) = sorted(first.items(), key=lambda item: item[1])[:2]
        raise TunesmithError(
            "data.mixed_layouts", path=str(path), one=one, place=place + 1, other=other, other_place=other_place + 1
        )
    return next(iter(first))
