"""Compressed files and archives: the same rows as the plain files, wherever they stand."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from office_files import docx, paragraph, zipped

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.files import Manner, list_files, read_file, read_files
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.rejected import rejected_rows
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.sources import SourceSpec

ROWS = [{"prompt": f"问题 {number}", "completion": "答" * number} for number in range(1, 40)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", PACK)
def test_a_compressed_file_holds_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.jsonl{suffix}"
    path.write_bytes(PACK[suffix](LINES))
    assert read_file(path).rows == ROWS
    half = LINES.index(b"\n", len(LINES) // 2) + 1
    path.write_bytes(PACK[suffix](LINES[:half]) + PACK[suffix](LINES[half:]))
    assert read_file(path).rows == ROWS, "one stream after another"


def test_every_kind_of_table_may_be_compressed(tmp_path: Path) -> None:
    table = io.BytesIO()
    pl.DataFrame(ROWS).write_parquet(table)
    for name, content in (
        ("a.parquet.gz", gzip.compress(table.getvalue())),
        ("a.json.zst", PACK[".zst"](json.dumps(ROWS).encode())),
        ("a.csv.xz", lzma.compress(pl.DataFrame(ROWS).write_csv().encode("utf-16"))),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_file(tmp_path / name).rows == ROWS, name


def test_an_archive_is_its_files_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    other = pl.DataFrame(ROWS[:3]).write_csv().encode()
    content = {"b/rows.jsonl": LINES, "a.csv": other, "README.md": "about", "__MACOSX/._a.csv": "x", ".b.csv": "y"}
    path.write_bytes(zipped(content))
    first, second = read_files(path)
    assert (first.path, second.path) == (path / "a.csv", path / "b" / "rows.jsonl")
    assert (first.rows, second.rows) == (ROWS[:3], ROWS)
    assert {note.facts["path"] for note in first.notes} == {
        "all.zip/README.md", "all.zip/__MACOSX/._a.csv", "all.zip/.b.csv",
    }  # fmt: skip


def tarred(content: dict[str, bytes], folder: str = ".") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo(folder)
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
        for name, each in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(each)
            archive.addfile(entry, io.BytesIO(each))
    return out.getvalue()


@pytest.mark.parametrize("suffix", ["", *PACK])
def test_a_tar_archive_is_its_files_of_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"all.tar{suffix}"
    content = tarred(
        {"./b/训练.jsonl": LINES, "./a.csv": pl.DataFrame(ROWS[:3]).write_csv().encode(), "./._a.csv": b"x"}
    )
    path.write_bytes(PACK[suffix](content) if suffix else content)
    first, second = read_files(path)
    assert (first.path, second.path) == (path / "a.csv", path / "b" / "训练.jsonl")
    assert (first.rows, second.rows) == (ROWS[:3], ROWS)
    assert [note.facts["path"] for note in first.notes] == [f"{path.name}/._a.csv"]


def test_a_tar_archive_by_its_short_name_and_by_its_split(tmp_path: Path) -> None:
    (tmp_path / "rows.tgz").write_bytes(gzip.compress(tarred({"rows.jsonl": LINES})))
    assert read_files(tmp_path / "rows.tgz")[0].rows == ROWS
    for split, rows in (("train", LINES), ("test", LINES[:50])):
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / "all" / f"{split}.tar.gz").write_bytes(gzip.compress(tarred({"rows.jsonl": rows})))
    assert list_files(tmp_path / "all", "train")[0] == [tmp_path / "all" / "train.tar.gz"]
    (file,) = read_files(tmp_path / "all" / "train.tar.gz", Manner(split="train"))
    assert file.rows == ROWS


def test_an_archive_of_documents(tmp_path: Path) -> None:
    path = tmp_path / "docs.zip"
    path.write_bytes(zipped({"a.docx": docx(paragraph("one")), "b.txt": "two", "c.html": "<p>three"}))
    assert [file.rows for file in read_files(path)] == [[{"text": "one"}], [{"text": "two"}], [{"text": "three"}]]


def test_packed_rows_reach_the_ledger_and_the_file_of_rejected_rows(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    bad = LINES + b'{"prompt": "half'
    (tmp_path / "all" / "a.zip").write_bytes(zipped({"x.jsonl": bad}))
    (tmp_path / "all" / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    assert [path.name for path in list_files(tmp_path / "all")[0]] == ["a.zip", "b.jsonl.gz"]
    ledger = Ledger()
    spec = DataSpec(sources=[SourceSpec(path="all")])
    frame, report = read_source(spec.sources[0], "train", tmp_path, Reading("chat", None, 1), ledger)
    assert len(frame) == 2 * len(ROWS) and ledger.totals() == {"dropped: broken_json": 1, "kept": 2 * len(ROWS)}
    assert [file.path for file in report.files] == ["all/a.zip/x.jsonl", "all/b.jsonl.gz"]
    (line,) = rejected_rows(spec, tmp_path, ledger)
    assert json.loads(line)["original"] == '{"prompt": "half'


def test_what_is_read_is_told_from_the_name(tmp_path: Path) -> None:
    for name in ("a.zip.gz", "a.gz", "a.exe", "a.jsonl.lz4"):
        (tmp_path / name).write_bytes(LINES)
        with pytest.raises(TunesmithError, match=r"data\.unknown_suffix"):
            list_files(tmp_path / name)
