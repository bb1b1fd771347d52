"""Corpora out of Parquet files and compressed lines: the same rows as out of plain lines, damage told of."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import SPLITS
from tunesmith.data.corpus import build as builder
from tunesmith.data.corpus import groups, inputs
from tunesmith.data.corpus.build import CorpusReport, build_corpus
from tunesmith.recipe.specs.data import DataSpec

PIECE = 2000
ROWS = [
    {"id": number, "text": " ".join(f"word{number}x{place}" for place in range(15)), "shop": f"s{number % 29}"}
    for number in [*range(60), 3, 5]
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
PRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pa.compress(content, "zstd", asbytes=True)),
}


def built(folder: Path, path: str, name: str = "out", **source: object) -> CorpusReport:
    stated = {"sources": [{"path": path, "name": "web", **source}], "split": {"group_by": "shop"}}
    return build_corpus(DataSpec.model_validate({"rows": "text", **stated}), folder, folder / name, piece_bytes=PIECE)


def shards(out: Path, *names: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(each) for name in names for each in sorted((out / name).iterdir())).sort("row")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    built(tmp_path, "rows.jsonl", "plain")
    return tmp_path


def alike(folder: Path) -> None:
    for name in ("ledger", *SPLITS):
        assert shards(folder / "out", name).equals(shards(folder / "plain", name)), name
    assert len(list((folder / "out" / "ledger").iterdir())) > 3, "several pieces, or nothing was shown"


@pytest.mark.parametrize("suffix", PRESS)
def test_compressed_lines_are_the_lines(folder: Path, suffix: str) -> None:
    (folder / f"rows.jsonl{suffix}").write_bytes(PRESS[suffix](LINES))
    report = built(folder, f"rows.jsonl{suffix}")
    assert report.bytes == len(LINES)
    alike(folder)
    assert not (folder / "out.building").exists()


def test_row_groups_are_read_as_lines_are(folder: Path) -> None:
    pl.DataFrame(ROWS).write_parquet(folder / "rows.parquet", row_group_size=9)
    built(folder, "rows.parquet")
    alike(folder)


def test_rows_of_parquet_without_a_text_have_a_fate(folder: Path) -> None:
    rows = [{**row, "text": None if row["id"] == 4 else row["text"]} for row in ROWS]
    pl.DataFrame(rows).rename({"text": "body"}).write_parquet(folder / "rows.parquet", row_group_size=9)
    report = built(folder, "rows.parquet", columns={"text": "body"})
    assert report.fates == {"dropped: content_not_text": 1, "kept": 59, "merged: exact_duplicate_of_row": 2}


def test_what_is_unpacked_is_not_unpacked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(LINES))
    opened = [0]
    chunks = inputs.unpressed_chunks

    def counted(path: Path) -> object:
        opened[0] += 1
        return chunks(path)

    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inputs, "unpressed_chunks", counted)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "decide", stops)
        built(folder, "rows.jsonl.gz")
    built(folder, "rows.jsonl.gz")
    assert opened == [1]
    alike(folder)


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("rows.jsonl.gz", gzip.compress(LINES)[:-9], "data.broken_packed"),
        ("rows.jsonl.gz", gzip.compress(b""), "data.empty_file"),
        ("rows.jsonl.zst", b"no zstd at all", "data.broken_packed"),
        ("rows.parquet", b"PAR1 and no more", "data.broken_file"),
        ("rows.parquet", b"", "data.empty_file"),
        ("rows.csv.gz", gzip.compress(b"text\na\n"), "data.corpus_suffix"),
        ("rows.parquet.gz", gzip.compress(b"PAR1"), "data.corpus_suffix"),
    ],
)
def test_damaged_files_are_refused_and_leave_nothing(folder: Path, name: str, content: bytes, code: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(TunesmithError) as caught:
        built(folder, name)
    assert caught.value.code == code
    assert not (folder / "out").exists() and not list(folder.glob("out.building/unpacked*"))


def test_too_large_a_row_group_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl.DataFrame(ROWS).write_parquet(folder / "rows.parquet")
    monkeypatch.setattr(groups, "_LARGEST", 100)
    with pytest.raises(TunesmithError) as caught:
        built(folder, "rows.parquet")
    assert caught.value.code == "data.corpus_group_size" and caught.value.facts["largest_mb"] == 1


def test_a_parquet_file_without_rows_is_no_corpus(folder: Path) -> None:
    pl.DataFrame(schema={"text": pl.String}).write_parquet(folder / "rows.parquet")
    with pytest.raises(TunesmithError) as caught:
        built(folder, "rows.parquet")
    assert caught.value.code == "data.empty_file"
