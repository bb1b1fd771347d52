"""Text to raw rows: CSV, JSON and CoNLL. A row that cannot be read is a reason, not a stop."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.data.defects import Reason, RowDefect
from tunesmith.data.formats.doubled_keys import DoubledKeys, has_doubled_keys, object_of, spelled
from tunesmith.data.formats.encoding import Text
from tunesmith.messages import say

LONGEST_ROW = 2**24
"""Characters of a row. More is a file without line ends: no model reads a text of that length, and a tokenizer would
work on it for hours."""


@dataclass(frozen=True)
class Unread:
    """A row that could not be read: why, and what stands in the file, which nothing but an export may show."""

    reason: Reason
    original: str = field(repr=False)


RawRow = Mapping[str, object] | Unread
"""A row by its file's column names, or why there is none."""

csv.field_size_limit(sys.maxsize)  # a cell may hold a whole conversation
_ROW_LISTS = ("data", "rows", "examples", "train")
_COLUMN_NAME = re.compile(r"[^\W\d][\w.-]{0,39}")
_ENDED_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_LINE_END = re.compile(r"\r\n|\r|\n")
_COLUMN_GAP = re.compile(r"[ \t]+")
_SEPARATORS = ",;\t|"
_STATED_SEPARATOR = re.compile(r"sep=(?P<separator>[,;|\t])(?:\r\n|\r|\n)", re.IGNORECASE)
_ROWS_TRIED = 50
_BROKEN_SHARE = 0.5
"""More broken lines than this and it is the file that is wrong, not its rows."""


def listed(columns: Iterable[str], most: int = 12) -> str:
    """Names of columns for a message. A file without a header has a row's words there: what does not look like a name
    is only counted.
    """
    stated = sorted(set(columns))
    names = [name for name in stated if _COLUMN_NAME.fullmatch(name)]
    shown = [*names[:most], *(["..."] if len(names) > most else [])]
    odd = len(stated) - len(names)
    return ", ".join([*shown, *([say("data.odd_columns", count=odd)] if odd else [])]) or "-"


def separator_of(content: str) -> tuple[str, int]:
    """What parts the cells of a .csv file, and how many characters at its beginning only say so (sep=; for Excel).

    It is the first of , ; tab and | that cuts the header and the rows behind it into equally many cells, more than
    one; a comma where none does, so that a file of one column stays one. Spreadsheets write ; where a comma stands
    in numbers.
    """
    stated = _STATED_SEPARATOR.match(content)
    if stated is not None:
        return stated["separator"], stated.end()
    for separator in _SEPARATORS:
        cells = csv.reader((found[0] for found in _ENDED_LINE.finditer(content)), delimiter=separator, strict=True)
        try:
            widths = {len(row) for row in islice(cells, _ROWS_TRIED) if row}
        except csv.Error:
            continue
        if len(widths) == 1 and widths != {1}:
            return separator, 0
    return ",", 0


def read_separated(text: Text, path: Path, separator: str) -> list[RawRow]:
    """Rows of a file with separators, whose first line names the columns.

    Errors: data.duplicate_columns, data.broken_csv.
    """
    ended = (found[0] for found in _ENDED_LINE.finditer(text.text))  # StringIO would hold four bytes a character
    lines = csv.reader(ended, delimiter=separator, strict=True)
    try:
        header = next(lines, [])
        refuse_doubled(header, path)
        return [
            dict(zip(header, cells, strict=True))
            if len(cells) == len(header)
            else Unread("wrong_field_count", _separated(cells, separator))
            for cells in lines
            if cells
        ]
    except csv.Error as error:
        raise TunesmithError("data.broken_csv", path=str(path), line=lines.line_num) from error


def refuse_doubled(header: Sequence[str], path: Path) -> None:
    """Errors: data.duplicate_columns."""
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise TunesmithError("data.duplicate_columns", path=str(path), columns=listed(doubled))


def _separated(cells: list[str], separator: str) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter=separator, lineterminator="").writerow(cells)
    return line.getvalue()


def read_json(text: Text, path: Path, *, lines: bool) -> list[RawRow]:
    """A JSON list of objects, one object that holds such a list or is itself a row, or one object a line.

    The suffix only says what is tried first.
    """
    content = text.text
    if content.isspace():
        raise TunesmithError("data.empty_file", path=str(path))
    if content.lstrip().startswith("[") and not _looks_like_lines(content):
        return _rows_of_document(content, path)
    if lines:
        return rows_of_lines(content, path)
    try:
        document = json.loads(content, object_pairs_hook=object_of)
    except (ValueError, RecursionError):  # several lines
        return rows_of_lines(content, path)
    return _rows_of_object(document, path) if isinstance(document, dict) else rows_of_lines(content, path)


def _rows_of_object(document: Mapping[str, object], path: Path) -> list[RawRow]:
    """The rows of the one list in an object; without a list of a known name it is a row itself.

    Errors: data.several_lists, where rows of the others would be lost.
    """
    pairs = document.pairs if isinstance(document, DoubledKeys) else document.items()
    lists = [(name, value) for name, value in pairs if isinstance(value, list) and _may_be_rows(name, value)]
    if not any(name in _ROW_LISTS for name, _ in lists):
        return [_as_row(document)]
    if len(lists) > 1:
        raise TunesmithError("data.several_lists", path=str(path), names=listed(name for name, _ in lists))
    return [_as_row(value) for value in lists[0][1]]


def _may_be_rows(name: str, value: list[object]) -> bool:
    return name in _ROW_LISTS or any(isinstance(each, dict) for each in value)


def _rows_of_document(content: str, path: Path) -> list[RawRow]:
    try:
        document = json.loads(content, object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        raise TunesmithError("data.broken_json", path=str(path), line=error.lineno, offset=error.pos) from error
    except RecursionError as error:
        raise TunesmithError("data.too_deep", path=str(path)) from error
    except ValueError as error:  # an integer of thousands of digits
        raise TunesmithError("data.broken_json", path=str(path), line=1, offset=0) from error
    return [_as_row(value) for value in document]


def _looks_like_lines(content: str) -> bool:
    """Whether most lines look like whole objects: then a list in the first line is one wrong row, no document."""
    filled = whole = 0
    for line in map(str.strip, _lines(content)):
        filled += bool(line)
        whole += line.startswith("{") and line.endswith("}")
    return whole > filled / 2


def _lines(content: str) -> Iterator[str]:
    """Lines one at a time: a list of all of them would hold a large file twice."""
    first = 0
    while first <= len(content):
        last = content.find("\n", first)
        last = len(content) if last < 0 else last
        yield content[first:last]
        first = last + 1


def rows_of_lines(content: str, path: Path) -> list[RawRow]:
    """A row a line. Errors: data.broken_json where most lines are none."""
    rows: list[RawRow] = []
    broken = 0
    first_line = first_offset = offset = 0
    for number, line in enumerate(_lines(content), start=1):
        if len(line) > LONGEST_ROW:
            rows.append(Unread("too_large", line))
        elif line.strip():
            try:
                rows.append(_parse(line))
            except RowDefect as defect:
                rows.append(Unread(defect.reason, line))
            except ValueError as error:
                rows.append(Unread("broken_json", line))
                broken += 1
                if broken == 1:
                    first_line, first_offset = number, offset + getattr(error, "pos", 0)
        offset += len(line) + 1
    if broken > _BROKEN_SHARE * len(rows):
        raise TunesmithError("data.broken_json", path=str(path), line=first_line, offset=first_offset)
    return rows


def _parse(line: str) -> Mapping[str, object]:
    """One row of a line. Raises ValueError where the line is no JSON, RowDefect where it is no row."""
    try:
        value = json.loads(line, object_pairs_hook=object_of)
    except RecursionError:
        raise RowDefect("too_deep") from None
    row = _as_row(value)
    if isinstance(row, Unread):
        raise RowDefect(row.reason)
    return row


def _as_row(value: object) -> RawRow:
    try:
        if not isinstance(value, dict):
            return Unread("not_an_object", spelled(value))
        return Unread("duplicate_key", spelled(value)) if has_doubled_keys(value) else value
    except RecursionError:
        return Unread("too_deep", "")


def read_conll(text: Text) -> list[RawRow]:
    """Sentences of a CoNLL file: a token and its tag a line (first and last column), an empty line between.

    Spaces and tabs part columns and nothing else does: a full-width blank is a token like any other sign.
    """
    rows: list[RawRow] = []
    tokens: list[str] = []
    tags: list[str] = []
    for line in [*_LINE_END.split(text.text), ""]:
        parts = [part for part in _COLUMN_GAP.split(line) if part]
        if parts and parts[0] != "-DOCSTART-":
            tokens.append(parts[0])
            tags.append(parts[-1] if len(parts) > 1 else "")
        elif tokens:
            rows.append({"tokens": tokens, "tags": tags})
            tokens, tags = [], []
    return rows
