"""Bombs, tricks with names, damaged and cut files: refused whole, before anything is written or memory runs out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from faults_tally import Tally
from office_files import docx, paragraph, pdf, xlsx, xlsx_of, zipped

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.files import Unread, read_files
from tunesmith.data.formats.unpack import FREE_BYTES, MOST_MEMBERS
from tunesmith.messages import LANGUAGES, render

HELPERS = Path(__file__).parents[1] / "helpers"
ZEROS = bytes(2**20)
MARK = "7Zq"
ROWS = [{"prompt": f"{MARK} {number}", "completion": f"{MARK} {number}!"} for number in range(200)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def refusal(path: Path) -> str:
    with pytest.raises(TunesmithError) as caught:
        read_files(path)
    for language in LANGUAGES:
        said = render(caught.value, language)
        assert MARK not in said.cause + said.next_step
    return caught.value.code


def entry(name: str, content: bytes = LINES, mode: int = 0o100644) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.create_system, info.external_attr = 3, mode << 16
    return info, content


def archive(path: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for info, content in entries:
            out.writestr(info, content)
    return path


def tar_entry(name: str, content: bytes = LINES, kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/passwd", len(content)
    return info, content


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.mark.case("D7")
@pytest.mark.parametrize(
    "odd",
    [
        tar_entry("../../rows.jsonl"),
        tar_entry("/etc/rows.jsonl"),
        tar_entry("a\\rows.jsonl"),
        tar_entry("rows.jsonl"),
        tar_entry("./rows.jsonl"),
        tar_entry("link.jsonl", b"", tarfile.SYMTYPE),
        tar_entry("hard.jsonl", b"", tarfile.LNKTYPE),
        tar_entry("device.jsonl", b"", tarfile.CHRTYPE),
        tar_entry("pipe.jsonl", b"", tarfile.FIFOTYPE),
        tar_entry("\udcff.jsonl"),
    ],
    ids=["up", "root", "backslash", "twice", "twice-dotted", "link", "hard", "device", "pipe", "no-text"],
)
def test_an_odd_entry_of_a_tar_archive(tmp_path: Path, odd: tuple[tarfile.TarInfo, bytes]) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(tar_entry("rows.jsonl"), odd))
    assert refusal(path) == "data.odd_member"


@pytest.mark.case("D7")
def test_a_tar_archive_that_is_cut_damaged_or_goes_on(tmp_path: Path) -> None:
    whole = tar_of(tar_entry("1.jsonl"), tar_entry("2.jsonl"))
    blocks = len(whole.rstrip(b"\0")) // tarfile.BLOCKSIZE + 1
    damaged = bytearray(whole)
    second = whole.index(b"2.jsonl")
    damaged[second] = ord("3")
    wrong = {
        "end": whole[: blocks * tarfile.BLOCKSIZE],
        "lone": whole[: (blocks + 1) * tarfile.BLOCKSIZE],
        "member": whole[:second],
        "middle": whole[: second + 700],
        "header": bytes(damaged),
        "more": whole + whole,
        "none": b"prompt,completion",
        "zeros": bytes(10_240),
    }
    for name, content in wrong.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        code = refusal(path)
        assert code == ("data.empty_folder" if name == "zeros" else "data.broken_packed"), name
    path = tmp_path / "packed.tar.gz"
    path.write_bytes(gzip.compress(whole)[:-20])
    assert refusal(path) == "data.broken_packed"


@pytest.mark.case("D7")
def test_a_tar_archive_within_an_archive_or_of_too_many_files(tmp_path: Path) -> None:
    (tmp_path / "in.tar").write_bytes(tar_of(tar_entry("rows.jsonl"), tar_entry("more.tgz")))
    assert refusal(tmp_path / "in.tar") == "data.nested_archive"
    many = [tar_entry(f"{number}.jsonl", b"") for number in range(MOST_MEMBERS + 1)]
    (tmp_path / "many.tar").write_bytes(tar_of(*many))
    assert refusal(tmp_path / "many.tar") == "data.too_many_members"


@pytest.mark.case("D7")
def test_what_unpacks_too_far_is_refused_in_bounded_memory(tmp_path: Path, tally: Tally) -> None:
    """Each bomb is read in a child that may use 1 GB more than it needs to start."""
    much = tally.amount(FREE_BYTES + 2**20, 10 * 2**30)
    bombs: list[Path] = []
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as out:
        for _ in range(much // len(ZEROS)):
            out.write(ZEROS)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("1.jsonl", "2.jsonl"):
            with packed.open(name, "w", force_zip64=True) as member:
                for _ in range(much // 2 // len(ZEROS) + 1):
                    member.write(ZEROS)
    (tmp_path / "c.jsonl.bz2").write_bytes(bz2.compress(ZEROS * 80))
    (tmp_path / "d.jsonl.xz").write_bytes(lzma.compress(ZEROS * 80))
    (tmp_path / "e.jsonl.zst").write_bytes(zstd(ZEROS * 80))
    (tmp_path / "e.tar.gz").write_bytes(gzip.compress(tar_of(tar_entry("rows.jsonl", ZEROS * 80))))
    (tmp_path / "f.docx").write_bytes(zipped({"word/document.xml": ZEROS * 80}))
    (tmp_path / "g.parquet").write_bytes(parquet_bomb())
    bombs = sorted(tmp_path.iterdir())
    code = (
        "import resource, sys; from pathlib import Path; import polars, pyarrow.parquet;"
        "from tunesmith.core.errors import TunesmithError; from tunesmith.data.formats.files import read_files\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for each in sys.argv[1:]:\n"
        "    try: read_files(Path(each)); print('read')\n"
        "    except TunesmithError as error: print(error.code)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, bombs)],
        capture_output=True, text=True, timeout=300, env=os.environ | {"POLARS_MAX_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    *codes, grown = done.stdout.split()
    assert codes == ["data.unpacks_too_far"] * len(bombs)
    assert int(grown) < 2**20, "kB"
    assert sorted(tmp_path.iterdir()) == bombs, "nothing was written"
    tally.count("bombs", len(bombs))


def parquet_bomb() -> bytes:
    """Half a thousand million equal rows in a few kB."""
    out = io.BytesIO()
    column = pl.Series("text", ["x"]).new_from_index(0, 1_000_000)
    writer = pa.parquet.ParquetWriter(out, pa.schema([("text", pa.large_string())]), compression="zstd")
    table = pa.table({"text": column.to_arrow().cast(pa.large_string())})
    for _ in range(20):
        writer.write_table(table)
    writer.close()
    return out.getvalue()


@pytest.mark.case("D7")
def test_workbooks_that_span_too_much_are_refused(tmp_path: Path, tally: Tally) -> None:
    pytest.importorskip("python_calamine", reason="needs the extra documents")
    path = tmp_path / "a.xlsx"
    far = '<row r="1"><c r="A1"><v>1</v></c></row><row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
    escaped = '<row><c r="A1"><v>1</v></c><c r="&#88;FD1048576"><v>1</v></c></row>'
    for cells in (far, escaped):
        path.write_bytes(xlsx_of({"s": cells}))
        assert refusal(path) == "data.sheet_too_wide"
        tally.count("bombs")


@pytest.mark.case("D7")
def test_tricks_with_names_are_refused(tmp_path: Path, tally: Tally) -> None:
    names = [
        "../a.jsonl",
        "a/../../b.jsonl",
        "/etc/a.jsonl",
        "C:/a.jsonl",
        "c:\\a.jsonl",
        "..\\a.jsonl",
        "a/..",
        "a\x00.jsonl",
    ]
    before = sorted(tmp_path.parent.iterdir())
    for name in names:
        assert refusal(archive(tmp_path / "a.zip", entry(name))) == "data.odd_member", name
        tally.count("odd members")
    for mode in (0o120777, 0o060644, 0o020644, 0o010644):
        assert refusal(archive(tmp_path / "a.zip", entry("a.jsonl", b"/etc/passwd", mode))) == "data.odd_member"
        tally.count("odd members")
    assert sorted(tmp_path.parent.iterdir()) == before


@pytest.mark.case("D7")
def test_archives_that_cannot_be_read_whole_are_refused(tmp_path: Path, tally: Tally) -> None:
    path = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(path, entry("a.jsonl"), entry("a.jsonl"))
    assert refusal(path) == "data.odd_member"
    for name in ("b.zip", "b.jsonl.gz", "b.tar"):
        assert refusal(archive(path, entry("a.jsonl"), entry(name))) == "data.nested_archive"
    path.write_bytes(locked(zipped({"a.jsonl": LINES})))
    assert refusal(path) == "data.locked_archive"
    path.write_bytes(zipped({f"{number}.txt": "" for number in range(MOST_MEMBERS + 1)}, zipfile.ZIP_STORED))
    assert refusal(path) == "data.too_many_members"
    assert refusal(archive(path, entry("a.exe"), entry("b.dll"))) == "data.empty_folder"
    assert refusal(archive(path)) == "data.empty_folder"
    assert refusal(archive(path, entry("a.jsonl", b""))) == "data.empty_file"
    tally.count("odd archives", 8)


def locked(content: bytes) -> bytes:
    """Set the bit of encryption in both headers of the one member."""
    changed = bytearray(content)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        changed[changed.index(mark) + place] |= 1
    return bytes(changed)


@pytest.mark.case("D7")
@pytest.mark.parametrize("suffix", [*PACK, ".zip"])
def test_a_cut_or_changed_file_gives_all_rows_or_none(tmp_path: Path, tally: Tally, suffix: str) -> None:
    whole = zipped({"a.jsonl": LINES}) if suffix == ".zip" else PACK[suffix](LINES)
    path = tmp_path / ("a.zip" if suffix == ".zip" else f"a.jsonl{suffix}")
    cuts = {tally.random.randrange(1, len(whole)) for _ in range(tally.amount(15, 300))}
    for cut in (*cuts, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert refusal(path) == "data.broken_packed", cut
        tally.count("cut files")
    if suffix != ".zip":
        path.write_bytes(whole + b"rows that somebody added")
        assert refusal(path) == "data.broken_packed"
    for _ in range(tally.amount(15, 300)):
        changed = bytearray(whole)
        changed[tally.random.randrange(len(whole))] ^= 1 << tally.random.randrange(8)
        path.write_bytes(changed)
        try:
            rows = [row for file in read_files(path) for row in file.rows]
        except TunesmithError as error:
            assert error.code.startswith("data.")
        else:  # zstd's frames come without a check, unless their writer asks for one
            assert rows == ROWS or suffix == ".zst", "a changed bit in a name or a date, and all rows"
        tally.count("changed files")


DOCUMENTS: dict[str, Callable[[], bytes]] = {
    ".docx": lambda: docx(paragraph(f"{MARK} one") + paragraph(f"{MARK} two")),
    ".xlsx": lambda: xlsx({"s": [["prompt", "completion"], [f"{MARK} 1", f"{MARK} 2"]]}),
    ".pdf": lambda: pdf([f"{MARK} one", f"{MARK} two"]),
    ".html": lambda: f"<html><p>{MARK} one<p>{MARK} two".encode(),
}


@pytest.mark.case("D7")
@pytest.mark.parametrize("suffix", DOCUMENTS)
def test_damaged_documents_are_read_or_refused(tmp_path: Path, tally: Tally, suffix: str) -> None:
    pytest.importorskip("pypdf", reason="needs the extra documents")
    whole = DOCUMENTS[suffix]()
    path = tmp_path / f"a{suffix}"
    for _ in range(tally.amount(40, 1500)):
        path.write_bytes(damaged(whole, tally))
        try:
            files = read_files(path)
        except TunesmithError as error:
            assert error.code.startswith("data.")
            assert all(MARK not in render(error, language).cause for language in LANGUAGES)
        else:
            assert all(not isinstance(row, Unread) and row for file in files for row in file.rows)
        tally.count("damaged documents")
    if suffix != ".html":
        path.write_bytes(whole[: len(whole) * 2 // 3])
        assert refusal(path) in ("data.broken_file", "data.broken_packed")


def damaged(whole: bytes, tally: Tally) -> bytes:
    """The file cut, or with bytes changed, doubled or taken out."""
    draw, content = tally.random, bytearray(whole)
    for _ in range(draw.randrange(1, 4)):
        if not content:
            break
        place = draw.randrange(len(content))
        act = draw.randrange(4)
        if act == 0:
            content[place] = draw.randrange(256)
        elif act == 1:
            del content[place : place + draw.randrange(1, 30)]
        elif act == 2:
            content[place:place] = content[place : place + draw.randrange(1, 60)]
        else:
            content[place : place + 4] = bytes(draw.randrange(256) for _ in range(4))
    return bytes(content) or b"x"


@pytest.mark.case("D7")
def test_hostile_pages_take_time_in_proportion_to_their_length(tmp_path: Path, tally: Tally) -> None:
    path = tmp_path / "a.html"
    for piece in ("<a ", "<!--", "<p>", "</", "&#", "<![CDATA[", "<a href='"):
        path.write_text(f"{MARK} " + piece * (50_000 // len(piece)), "utf-8")
        began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        try:
            read_files(path)
        except TunesmithError as error:
            assert error.code == "data.empty_file"
        assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began < 5, piece
        tally.count("hostile pages")
