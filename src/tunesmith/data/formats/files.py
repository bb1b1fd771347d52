"""Files to raw rows: tables, documents, and what is packed. A row that cannot be read is a reason, not a stop."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa

from tunesmith.core.errors import Fact, TunesmithError
from tunesmith.core.files import sha256_file
from tunesmith.data.formats.arrow_spans import check_arrow_spans
from tunesmith.data.formats.encoding import Text, decode
from tunesmith.data.formats.html import text_of_html
from tunesmith.data.formats.kinds import ARCHIVES, DOCUMENTS, ROWS, SUFFIXES, TAR, is_pressed, kind_of_file
from tunesmith.data.formats.pages import text_of_pdf
from tunesmith.data.formats.passages import passages
from tunesmith.data.formats.rows import LONGEST_ROW as LONGEST_ROW
from tunesmith.data.formats.rows import RawRow, read_conll, read_json, read_separated, refuse_doubled, separator_of
from tunesmith.data.formats.rows import Unread as Unread
from tunesmith.data.formats.sheets import read_workbook, rows_of
from tunesmith.data.formats.spans import check_spans
from tunesmith.data.formats.splits import of_one_split
from tunesmith.data.formats.tar import tar_members, tar_names
from tunesmith.data.formats.unpack import Member, member_names, members, unpressed
from tunesmith.data.formats.word import text_of_docx
from tunesmith.data.notes import Note

NOT_ROWS = frozenset({"dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json", "manifest.json"})


@dataclass(frozen=True)
class Manner:
    """How the files of a source are read. `encoding` "auto" looks; `chunk_size` is in characters, for documents.

    `split` is the one that is read of a place that holds several, `sheet` that of a workbook.
    """

    encoding: str = "auto"
    chunk_size: int = 2000
    split: str | None = None
    sheet: str | None = None


USUAL = Manner()


@dataclass(frozen=True)
class RawFile:
    """What a file holds, or a member of an archive, or a sheet of a workbook: they stand behind its name in `path`.

    `encoding` is "binary" for files that are no text; `guessed` marks an encoding by attempt. `document` says that the
    rows were cut from one running text, `sheet` that they stood in a sheet of a workbook.
    """

    path: Path
    sha256: str
    bytes: int
    encoding: str
    guessed: bool
    rows: list[RawRow]
    document: bool = False
    sheet: bool = False
    notes: tuple[Note, ...] = ()


def list_files(path: Path, split: str | None = None) -> tuple[list[Path], list[Path]]:
    """The files to read at a path (itself, or those in the folder) and the files passed over.

    A hidden file (a name on its way begins with a dot) is passed over, and so are documents beside files of rows: they
    describe these. So are files of other splits than the one that is named.

    Errors: data.missing_path, data.empty_folder, data.unknown_suffix, data.name_no_text, those of `of_one_split`.
    """
    if os.path.isdir(path):  # which takes a name that no system can have for a missing one
        found = sorted(
            each for each in path.rglob("*") if each.is_file() and (kind_of_file(each) or not is_hidden(each, path))
        )
        for each in found:
            _check_name(each, path)
        names = _readable(each.relative_to(path).as_posix() for each in found)
        if not names:
            raise TunesmithError("data.empty_folder", path=str(path), suffixes=" ".join(SUFFIXES))
        taken = [path / each for each in of_one_split(names, split, str(path))]
        passed_over = set(found) - set(taken)
        return taken, sorted(passed_over)
    if not os.path.isfile(path):
        raise TunesmithError("data.missing_path", path=str(path))
    if not kind_of_file(path):
        raise TunesmithError("data.unknown_suffix", path=str(path), suffixes=" ".join(SUFFIXES))
    return [path.parent / each for each in of_one_split([path.name], split, str(path))], []


def _readable(names: Iterable[str]) -> list[str]:
    """Of the names in a folder or an archive those that are read: files of rows, or documents where there are none."""
    shown = [name for name in map(Path, names) if not _is_hidden(name) and name.name not in NOT_ROWS]
    rows = [each.as_posix() for each in shown if kind_of_file(each) in (*ROWS, *ARCHIVES)]
    return rows or [each.as_posix() for each in shown if kind_of_file(each) in DOCUMENTS]


def _check_name(file: Path, folder: Path) -> None:
    """Linux allows any bytes as a name; the ledger, the card and every report hold text."""
    name = str(file.relative_to(folder))
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise TunesmithError("data.name_no_text", path=str(folder), name=ascii(name)) from error


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether the name of a file, or of a folder between, begins with a dot."""
    return _is_hidden(file.relative_to(folder))


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.parts)


def read_file(path: Path, manner: Manner = USUAL) -> RawFile:
    """Read one file that is no archive and no workbook of several sheets. Errors: those of `read_files`."""
    return read_files(path, manner)[0]


def read_files(path: Path, manner: Manner = USUAL) -> list[RawFile]:
    """Read one file; an archive or a workbook may hold several.

    Errors: data.empty_file, data.broken_file and the others of the readers below.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise TunesmithError("data.empty_file", path=str(path))
        kind = kind_of_file(path)
        if kind in ARCHIVES:
            return _read_archive(path, kind, manner)
        content = unpressed(path) if is_pressed(path) else None
        return _read(_Content(path, kind, content, sha256_file(path), size), manner)
    except OSError as error:
        raise TunesmithError("data.unreadable", path=str(path), reason=str(error.strerror)) from error


def _read_archive(path: Path, kind: str, manner: Manner) -> list[RawFile]:
    """Every file of rows in it (or its documents), in the order of their names. Archives in it are not opened."""
    names, opened = _opened(path, kind)
    inner = [name for name in names if is_pressed(Path(name)) or kind_of_file(Path(name)) in ARCHIVES]
    if inner:
        raise TunesmithError("data.nested_archive", path=str(path), name=inner[0])
    taken = _readable(names)
    if not taken:
        raise TunesmithError("data.empty_folder", path=str(path), suffixes=" ".join((*ROWS, *DOCUMENTS)))
    stem = path.stem.removesuffix(TAR)  # train.tar.gz: what is in it is of that split
    within = {f"{stem}/{name}": name for name in taken}
    taken = [within[each] for each in of_one_split(list(within), manner.split, str(path))]
    passed = [Note("data.passed_over", {"path": f"{path.name}/{name}"}) for name in names if name not in taken]
    files: list[RawFile] = []
    for member in opened(taken):
        shown, content = path / member.name, member.content
        if not content:
            raise TunesmithError("data.empty_file", path=str(shown))
        digest = hashlib.sha256(content).hexdigest()
        files += _read(_Content(shown, kind_of_file(shown), content, digest, len(content)), manner)
    return [replace(files[0], notes=(*passed, *files[0].notes)), *files[1:]]


def _opened(path: Path, kind: str) -> tuple[list[str], Callable[[Iterable[str]], Iterator[Member]]]:
    """The names in an archive, and what reads members by their names."""
    if kind != TAR:
        return member_names(path, path), partial(members, path, path)
    content = unpressed(path) if is_pressed(path) else path.read_bytes()
    return tar_names(content, path), partial(tar_members, content, path)


@dataclass(frozen=True)
class _Content:
    """A file on its way to rows: what it is called and read as, and its bytes unless they are read from `path`."""

    path: Path
    kind: str
    content: bytes | None
    sha256: str
    size: int

    def bytes(self) -> bytes:
        return self.path.read_bytes() if self.content is None else self.content

    def file(self, rows: list[RawRow], text: Text | None = None) -> RawFile:
        """Errors: data.empty_file."""
        if not rows:
            raise TunesmithError("data.empty_file", path=str(self.path))
        encoding, guessed = (text.encoding, text.guessed) if text else ("binary", False)
        return RawFile(self.path, self.sha256, self.size, encoding, guessed, rows)


def _read(found: _Content, manner: Manner) -> list[RawFile]:
    if found.kind == ".xlsx":
        return _read_sheets(found, manner.sheet)
    if found.kind in (".parquet", ".arrow", ".feather"):
        return [found.file(_read_columnar(found))]
    if found.kind in DOCUMENTS:
        return [_read_document(found, manner)]
    text = decode(found.bytes(), found.path, manner.encoding)
    if found.kind in (".conll", ".bio"):
        return [found.file(read_conll(text), text)]
    if found.kind in (".csv", ".tsv"):
        return [_read_separated(found, text)]
    return [found.file(read_json(text, found.path, lines=found.kind != ".json"), text)]


def _read_separated(found: _Content, text: Text) -> RawFile:
    if found.kind == ".tsv":
        return found.file(read_separated(text, found.path, "\t"), text)
    separator, told = separator_of(text.text)
    rows = read_separated(replace(text, text=text.text[told:]), found.path, separator)
    facts: dict[str, Fact] = {"path": found.path.name, "separator": "\\t" if separator == "\t" else separator}
    return replace(found.file(rows, text), notes=() if separator == "," else (Note("data.separator", facts),))


def _read_document(found: _Content, manner: Manner) -> RawFile:
    """Rows of running text, each as many whole paragraphs as fit."""
    text: Text | None = None
    notes: tuple[Note, ...] = ()
    if found.kind == ".docx":
        words = text_of_docx(found.bytes(), found.path)
    elif found.kind == ".pdf":
        words, pages, silent = text_of_pdf(found.bytes(), found.path)
        facts: dict[str, Fact] = {"path": found.path.name, "pages": pages, "silent": silent}
        notes = (Note("data.silent_pages", facts),) if silent else ()
    else:
        page = found.kind in (".html", ".htm")
        text = decode(found.bytes(), found.path, manner.encoding, page=page)
        words = text_of_html(text.text) if page else text.text
    rows: list[RawRow] = [{"text": each} for each in passages(words, manner.chunk_size)]
    return replace(found.file(rows, text), document=True, notes=notes)


def _read_sheets(found: _Content, wanted: str | None) -> list[RawFile]:
    """Every visible sheet with rows, or the one that is wanted, be it hidden. Errors: data.no_such_sheet."""
    book = read_workbook(found.bytes(), found.path, wanted)
    if wanted is not None and not book.sheets:
        known = ", ".join(book.names)
        raise TunesmithError("data.no_such_sheet", path=str(found.path), sheet=wanted, sheets=known)
    several = sum(bool(sheet.rows) for sheet in book.sheets) > 1
    notes = [Note("data.hidden_sheet", {"path": found.path.name, "sheet": name}) for name in book.hidden]
    files: list[RawFile] = []
    for sheet in book.sheets:
        path, named = found.path / sheet.name if several else found.path, {"path": found.path.name, "sheet": sheet.name}
        if sheet.titles:
            notes.append(Note("data.sheet_titles", {**named, "rows": sheet.titles}))
        if not sheet.rows:
            notes.append(Note("data.empty_sheet", named))
            continue
        refuse_doubled(sheet.header, path)
        files.append(replace(found.file(list(rows_of(sheet))), path=path, sheet=True))
    if not files:
        raise TunesmithError("data.empty_file", path=str(found.path))
    return [replace(files[0], notes=tuple(notes)), *files[1:]]


def _read_columnar(found: _Content) -> list[RawRow]:
    source: Path | io.BytesIO = found.path if found.content is None else io.BytesIO(found.content)
    try:
        if found.kind == ".parquet":
            check_spans(source, found.size, found.path)
            frame = pl.read_parquet(source)
        else:
            content = found.bytes()
            check_arrow_spans(pa.py_buffer(content), found.path)
            frame = _read_arrow(content)
        return list(frame.iter_rows(named=True))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise TunesmithError("data.broken_file", path=str(found.path), format=found.kind[1:]) from error


def _read_arrow(content: bytes) -> pl.DataFrame:
    """Arrow's file form, else its stream form, which the `datasets` library writes under the same suffix."""
    return pl.read_ipc(content) if content[:6] == b"ARROW1" else pl.read_ipc_stream(content)
