"""A file of annotations as items, whatever tool wrote it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.data.annotations.items import Item
from tunesmith.data.annotations.rows import READ, tool_of
from tunesmith.data.annotations.table import is_answer, items_of_answers
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.files import list_files, read_files
from tunesmith.data.formats.layouts import Row
from tunesmith.data.formats.rows import Unread, listed


def load_items(path: Path) -> tuple[list[Item], int]:
    """Items of Label Studio, of Argilla or of a table of answers, and the number of rows that could not be read.

    Errors: data.no_annotations, those of `list_files` and `read_files`.
    """
    raws = [raw for file in list_files(path)[0] for raw in read_files(file)]
    rows = [row for raw in raws for row in raw.rows if not isinstance(row, Unread)]
    items: list[Item] = []
    answers: list[Row] = []
    for row in rows:
        tool = tool_of(row)
        if tool is not None:
            with suppress(RowDefect):
                items.append(READ[tool](row))
        elif is_answer(row):
            answers.append(row)
    if not items and not answers:
        columns = listed({column for row in rows for column in row})
        raise TunesmithError("data.no_annotations", path=str(path), columns=columns)
    unread = sum(len(raw.rows) for raw in raws) - len(items) - len(answers)
    return [*items, *items_of_answers(answers)], unread
