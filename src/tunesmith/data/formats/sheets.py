"""Excel workbooks to rows: below titles the first row of a sheet names the columns; cells are texts as in a CSV."""

from __future__ import annotations

import datetime
import io
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from xml.parsers import expat

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.extras import needed
from tunesmith.data.formats.unpack import member_names, members

_PLACE = re.compile(r"([A-Z]{1,3})([0-9]{1,7})")
_FREE_CELLS = 10_000_000
_CELLS_FOR_ONE = 100
"""Two filled cells at far corners span a table of 17 thousand million; a real sheet is filled better than this."""


@dataclass(frozen=True)
class Sheet:
    """One sheet with anything in it: its name, its columns, its rows below.

    `titles` counts the rows above that are one merged cell.
    """

    name: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    titles: int


@dataclass(frozen=True)
class Workbook:
    """The sheets to read, the names of all, and those of the hidden ones that are passed over."""

    sheets: list[Sheet]
    names: list[str]
    hidden: list[str]


def read_workbook(content: bytes, path: Path, wanted: str | None = None) -> Workbook:
    """The visible sheets that hold anything, or the wanted one alone, hidden or not.

    Errors: data.extra_missing, data.broken_file, data.unpacks_too_far, data.sheet_too_wide (a few cells that span too
    large a table), and the others of `member_names`.
    """
    calamine = needed("python_calamine", "documents", "xlsx")
    _check_spans(content, path)
    try:
        workbook = calamine.CalamineWorkbook.from_filelike(io.BytesIO(content))
        visible = {each.name: str(each.visible).endswith("Visible") for each in workbook.sheets_metadata}
        taken = [name for name in visible if (visible[name] if wanted is None else name == wanted)]
        opened = {name: workbook.get_sheet_by_name(name) for name in taken}
        tables = {name: (each.to_python(), each.start, each.merged_cell_ranges) for name, each in opened.items()}
    except Exception as error:  # the library's classes exist only with it, and damaged files raise Python's own as well
        raise TunesmithError("data.broken_file", path=str(path), format="xlsx") from error
    sheets = [
        _sheet(name, [[_text(cell) for cell in row] for row in table], _merged_rows(start, merged))
        for name, (table, start, merged) in tables.items()
    ]
    hidden = [name for name in visible if not visible[name] and wanted is None]
    return Workbook([each for each in sheets if each.header], list(visible), hidden)


_Place = tuple[int, int]


def _merged_rows(start: _Place | None, merged: Sequence[tuple[_Place, _Place]] | None) -> set[int]:
    """Rows of a table, counted from its first, in which cells of several columns are merged to one."""
    first = start[0] if start else 0
    return {top - first for (top, left), (_, right) in merged or () if right > left}


def _sheet(name: str, table: Sequence[Sequence[str]], merged: Set[int]) -> Sheet:
    """Rows and columns without anything in them are left out, and so are titles."""
    filled = [place for place, row in enumerate(table) if any(row)]
    below = list(dropwhile(lambda place: place in merged and sum(map(bool, table[place])) == 1, filled))
    columns = [place for place in range(max(map(len, table), default=0)) if any(table[row][place] for row in below)]
    rows = [tuple(table[row][place] for place in columns) for row in below]
    return Sheet(name, rows[0] if rows else (), tuple(rows[1:]), len(filled) - len(below))


def _text(cell: object) -> str:
    """A cell as a CSV export would write it."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell)


def _check_spans(content: bytes, path: Path) -> None:
    """Unpack every part once within the limits, and hold the table that the cells of a sheet span against their number.

    The reader of workbooks would make room for all of that table at once.
    """
    names = member_names(content, path)
    for member in members(content, path, names):
        if not member.name.endswith(".xml"):
            continue
        span = _Span()
        try:
            span.parser.Parse(member.content, True)
        except (expat.ExpatError, ValueError) as error:
            raise TunesmithError("data.broken_file", path=str(path), format="xlsx") from error
        if span.area > max(_FREE_CELLS, _CELLS_FOR_ONE * span.cells):
            raise TunesmithError("data.sheet_too_wide", path=str(path), cells=span.cells, area=span.area)


class _Span:
    """The last row and column of a part's cells, and how many cells there are."""

    def __init__(self) -> None:
        self.cells = 0
        self._last_row = self._last_column = 0
        self.parser = expat.ParserCreate(namespace_separator="}")
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start

    @property
    def area(self) -> int:
        return self._last_row * self._last_column

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        place = _PLACE.fullmatch(attributes.get("r", "")) if name.endswith("}c") else None
        if place is not None:
            self.cells += 1
            self._last_row = max(self._last_row, int(place[2]))
            self._last_column = max(self._last_column, _column(place[1]))


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number


def rows_of(sheet: Sheet) -> Iterator[dict[str, str]]:
    """The rows of a sheet by their columns."""
    return (dict(zip(sheet.header, row, strict=True)) for row in sheet.rows)
