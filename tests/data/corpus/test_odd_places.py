"""Sources and folders as people have them: nothing in them, in each other, gone in the middle, named in any script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.data.corpus import build as builder
from tunesmith.data.corpus.build import CorpusReport, build_corpus
from tunesmith.data.corpus.check import prove
from tunesmith.data.corpus.executors import InThreads
from tunesmith.recipe.specs.data import DataSpec

GOOD = "".join(json.dumps({"text": f"A good text number {n} with words {n * 7}"}) + "\n" for n in range(100))


def build(
    folder: Path, source: str = "rows.jsonl", out: str = "out", clean: Mapping[str, object] | None = None
) -> CorpusReport:
    settings = {"near_duplicates": 0.8, **(clean or {})}
    stated = {"rows": "text", "sources": [{"path": source, "layout": "text"}], "clean": settings}
    report = build_corpus(DataSpec.model_validate(stated), folder, folder / out, InThreads(2), piece_bytes=1000)
    prove(folder / out)
    return report


@pytest.mark.parametrize(
    ("content", "clean", "code"),
    [
        ("\n\n\n", {}, "data.empty_file"),
        ("[1]\n{}\n", {}, "data.no_rows"),
        ('{"text": "x"}\n' * 5, {"filter": {"rules": ["too_short"]}}, "data.no_rows"),
        ('{"text": "x"}\n' * 5, {"filter": {"rules": ["too_short"]}, "near_duplicates": None}, "data.no_rows"),
    ],
)
def test_a_corpus_of_nothing_is_said(tmp_path: Path, content: str, clean: Mapping[str, object], code: str) -> None:
    (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(TunesmithError) as caught:
        build(tmp_path, clean=clean)
    assert caught.value.code == code and not (tmp_path / "out").exists()
    if clean:
        assert caught.value.facts["read"] == 5 and "(too_short)" in str(caught.value.facts["reason"])


def test_a_corpus_is_not_written_into_its_own_source(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.jsonl").write_text(GOOD)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for out in ("in/out", "in/deep/out", "link/out"):
        with pytest.raises(TunesmithError) as caught:
            build(tmp_path, "in", out)
        assert caught.value.code == "corpus.inside_source"
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["rows.jsonl"]
    assert build(tmp_path, "in/rows.jsonl", "in/out").splits["train"] > 0, "a single file is no folder"


def test_a_folder_that_only_has_the_name_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD)
    (tmp_path / "out.building").mkdir()
    (tmp_path / "out.building" / "thesis.txt").write_text("years of work")
    with pytest.raises(TunesmithError) as caught:
        build(tmp_path)
    assert caught.value.code == "corpus.not_ours"
    assert (tmp_path / "out.building" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("change", ["gone", "a folder", "shorter"])
def test_a_source_that_goes_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(GOOD)
    make_parts = builder._make_parts

    def stepped(*given: object) -> None:
        if change == "shorter":
            source.write_text(GOOD[: len(GOOD) // 2])
        else:
            source.unlink()
        if change == "a folder":
            source.mkdir()
        make_parts(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(builder, "_make_parts", stepped)
    with pytest.raises(TunesmithError) as caught:
        build(tmp_path)
    assert caught.value.code in ("data.unreadable", "data.source_changed", "data.broken_json")
    assert not (tmp_path / "out").exists()


def test_names_in_any_script(tmp_path: Path) -> None:
    folder = tmp_path / "文件夹 🎉"
    folder.mkdir()
    (folder / "数据 😀.jsonl").write_text(GOOD)
    assert sum(build(folder, "数据 😀.jsonl", "语料 🎯").splits.values()) == 100
    assert sorted(path.name for path in folder.iterdir()) == ["数据 😀.jsonl", "语料 🎯"]


def test_a_row_beyond_all_measure_is_one_row_of_the_ledger(tmp_path: Path) -> None:
    line = json.dumps({"text": "word " * (4 << 20)}) + "\n"
    (tmp_path / "rows.jsonl").write_text(GOOD + line + GOOD)
    assert build(tmp_path).fates["dropped: too_large"] == 1
