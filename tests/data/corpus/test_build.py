from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file, verify_folder
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS
from tunesmith.data.corpus import build as builder
from tunesmith.data.corpus.build import CorpusReport, build_corpus
from tunesmith.data.corpus.executors import InThreads
from tunesmith.data.prepare import prepare
from tunesmith.recipe.specs.data import DataSpec

PIECE = 4000


def texts(count: int) -> list[str]:
    """Different texts, in two languages."""
    draw = random.Random(5)
    words = [f"{first}{last}" for first in "bcdfg" for last in ("ale", "ine", "oak", "urn", "est")]
    signs = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏"
    return [" ".join(draw.choices(words, k=40)) if i % 3 else "".join(draw.choices(signs, k=90)) for i in range(count)]


def edited(text: str) -> str:
    """A near copy that is a little longer."""
    return text + (" and more" if text.isascii() else "，等等")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """200 texts with 20 exact and 20 near copies, an empty one, a wrong line and a second file of the same source."""
    first = texts(200)
    rows: list[object] = [{"text": each, "shop": f"shop {i % 50}", "n": i} for i, each in enumerate(first)]
    rows += [{"text": each, "shop": "copies"} for each in first[:20]]
    rows += [{"text": edited(each)} for each in first[20:40]]
    rows += [{"text": "\x07 "}, {"text": first[50].upper() + " !"}]
    random.Random(1).shuffle(rows)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    lines.insert(7, "{broken")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.jsonl").write_text("\ufeff" + "\n".join(lines[:150]) + "\n", encoding="utf-8")
    (tmp_path / "rows" / "b.jsonl").write_text("\n".join(lines[150:]), encoding="utf-8")
    return tmp_path


def spec(**more: object) -> DataSpec:
    stated = {"rows": "text", "sources": [{"path": "rows", "name": "web"}], "clean": {"near_duplicates": 0.7}}
    return DataSpec.model_validate({**stated, **more})


def shards(out: Path, name: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(each) for each in sorted((out / name).iterdir()))


def kept(out: Path) -> pl.DataFrame:
    return pl.concat(shards(out, split) for split in SPLITS).sort("row")


def test_the_pass_decides_as_the_table_in_memory_does(folder: Path) -> None:
    report = build_corpus(spec(), folder, folder / "out", piece_bytes=PIECE)
    ledger = Ledger()
    prepared = prepare(spec(), folder, ledger)
    rows = pl.concat(prepared.frames.values()).sort("row")
    assert kept(folder / "out")["row"].to_list() == rows["row"].to_list()
    assert kept(folder / "out")["text"].to_list() == rows["text"].to_list()
    fates = shards(folder / "out", "ledger")
    entries = ledger.entries()
    assert fates["row"].to_list() == list(range(len(entries)))
    assert fates["index"].to_list() == [entry.index for entry in entries]
    assert fates["source"].unique().to_list() == ["web"]
    near = {entry.row: entry for entry in entries if entry.fate != "kept"}
    told = {row["row"]: row for row in fates.iter_rows(named=True) if row["fate"] != "kept"}
    assert {row: (entry.fate, entry.reason) for row, entry in near.items()} == {
        row: (each["fate"], each["reason"]) for row, each in told.items()
    }
    assert all(near[row].amount == each["amount"] for row, each in told.items())
    assert report.fates["merged: exact_duplicate_of_row"] == 20
    assert report.fates["dropped: near_duplicate_of_row"] == 21
    assert report.fates["dropped: broken_json"] == report.fates["dropped: empty_text"] == 1
    assert sum(report.splits.values()) == report.fates["kept"] == 200
    assert min(report.splits.values()) > 10
    verify_folder(folder / "out")
    assert not (folder / "out.building").exists()


def test_pieces_and_threads_make_no_difference(folder: Path) -> None:
    build_corpus(spec(), folder, folder / "one", executor=InThreads(1), piece_bytes=1 << 25)
    build_corpus(spec(), folder, folder / "many", executor=InThreads(3), piece_bytes=700)
    assert len(list((folder / "many" / "train").iterdir())) > 5
    for split in (*SPLITS, "ledger"):
        assert shards(folder / "one", split).equals(shards(folder / "many", split))


def test_a_group_stays_in_one_split(folder: Path) -> None:
    build_corpus(spec(split={"group_by": "shop"}), folder, folder / "out", piece_bytes=PIECE)
    found = [set(shards(folder / "out", split)["group"]) - {""} for split in SPLITS]
    assert sum(map(len, found)) == len(set().union(*found)) > 40


def test_more_rows_move_none(folder: Path) -> None:
    build_corpus(spec(), folder, folder / "out", piece_bytes=PIECE)
    more = [json.dumps({"text": each}) for each in texts(260)[200:]]
    (folder / "rows" / "c.jsonl").write_text("\n".join(more), encoding="utf-8")
    build_corpus(spec(), folder, folder / "larger", piece_bytes=PIECE)
    for split in SPLITS:
        assert set(shards(folder / "out", split)["text"]) <= set(shards(folder / "larger", split)["text"])


def test_without_near_duplicates_only_equal_rows_are_merged(folder: Path) -> None:
    report = build_corpus(spec(clean={}), folder, folder / "out", piece_bytes=PIECE)
    assert report.fates["kept"] == 221
    report = build_corpus(spec(clean={"exact_duplicates": False}), folder, folder / "all", piece_bytes=PIECE)
    assert report.fates["kept"] == 241


def files_of(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}


def test_a_build_that_was_stopped_goes_on_to_the_same_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_corpus(spec(), folder, folder / "whole", piece_bytes=PIECE)
    made: list[str] = []
    make_part = builder.make_part
    killed = [True]

    def stops(*given: object) -> None:
        if killed[0] and len(made) == 5:
            raise KeyboardInterrupt
        make_part(*given)  # type: ignore[arg-type]
        made.append(Path(str(given[0])).name)

    monkeypatch.setattr(builder, "make_part", stops)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(spec(), folder, folder / "out", executor=InThreads(1), piece_bytes=PIECE)
    assert not (folder / "out").exists()
    assert {each.name for each in (folder / "out.building").glob("part-*")} == set(made)
    killed[0] = False
    damaged = next((folder / "out.building").glob("part-00001-*"))
    (damaged / "keys.u64").write_bytes(b"damaged")
    build_corpus(spec(), folder, folder / "out", executor=InThreads(1), piece_bytes=PIECE)
    assert made.count(damaged.name) == 2 and len(made) == len(set(made)) + 1, "what is whole is not made again"
    assert files_of(folder / "out") == files_of(folder / "whole")


def test_another_recipe_does_not_go_on_with_old_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(builder, "decide", stops)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(spec(), folder, folder / "out", piece_bytes=PIECE)
    monkeypatch.undo()
    other = spec(clean={"normalize": False})
    assert build_corpus(other, folder, folder / "out", piece_bytes=PIECE).fates.get("dropped: empty_text") is None


def test_a_corpus_that_is_there_is_told_again_and_never_replaced(folder: Path) -> None:
    first = build_corpus(spec(), folder, folder / "out", piece_bytes=PIECE)
    before = files_of(folder / "out")
    again = build_corpus(spec(), folder, folder / "out", piece_bytes=PIECE)
    assert again == CorpusReport(first.fates, first.splits, first.bytes, first.changed, version=first.version)
    assert first.changed == {"normalized": {"rows": 1, "places": 1}}
    with pytest.raises(TunesmithError) as caught:
        build_corpus(spec(clean={}), folder, folder / "out", piece_bytes=PIECE)
    assert caught.value.code == "data.corpus_exists"
    assert files_of(folder / "out") == before


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"rows": "chat"}, "data.corpus_rows"),
        ({"test_sources": [{"path": "rows"}]}, "data.corpus_setting"),
        ({"clean": {"semantic_duplicates": 0.9}}, "data.corpus_setting"),
        ({"sources": [{"path": "rows", "sample": 3}]}, "data.corpus_setting"),
        ({"split": {"stratify_by": "class"}}, "data.corpus_setting"),
        ({"benchmarks": [{"path": "rows"}]}, "data.corpus_setting"),
        ({"sources": [{"path": "rows.csv"}]}, "data.corpus_suffix"),
        ({"sources": [{"path": "latin.jsonl"}]}, "data.wrong_encoding"),
        ({"sources": [{"path": "nowhere.jsonl"}]}, "data.missing_path"),
    ],
)
def test_what_cannot_be_built_is_refused(folder: Path, more: dict[str, object], code: str) -> None:
    (folder / "rows.csv").write_text("text\na\n", encoding="utf-8")
    (folder / "latin.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "caf\xe9"}\n')
    with pytest.raises(TunesmithError) as caught:
        build_corpus(spec(**more), folder, folder / "out")
    assert caught.value.code == code
    assert not (folder / "out").exists()


def test_odd_lines_are_told_of_and_the_others_read(folder: Path) -> None:
    odd = ['{"text": 5}', '{"text": null}', '{"other": "x"}', "[1]", '{"text": "half \\ud800"}', ""]
    odd.append('{"text": "twice", "text": "two"}')
    lines = ['{"text": "good one here"}', *odd, '{"text": "good two there"}']
    (folder / "odd.jsonl").write_text("\n".join(lines), encoding="utf-8")
    build_corpus(spec(sources=[{"path": "odd.jsonl", "layout": "text"}]), folder, folder / "out")
    told = shards(folder / "out", "ledger")
    ledger = Ledger()
    with pytest.raises(TunesmithError):  # too few rows to split, but read they are
        prepare(spec(sources=[{"path": "odd.jsonl", "layout": "text"}]), folder, ledger)
    assert told["reason"].to_list() == [entry.reason for entry in ledger.entries()]
    assert "lone_surrogate" in told["reason"].to_list()
    assert np.array_equal(told["row"].to_numpy(), np.arange(len(told)))
