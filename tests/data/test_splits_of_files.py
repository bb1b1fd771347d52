"""Folders and archives whose files are named after several splits: read by the one that is named, or refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.corpus.inputs import inputs_of
from tunesmith.data.formats.read import Reading, SourceReport, read_source
from tunesmith.data.formats.splits import split_of
from tunesmith.data.prepare import prepare
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.sources import SourceSpec

HUB = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"]


def laid_out(folder: Path, *names: str) -> Path:
    """Files of two rows each, in which their name stands."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"prompt": f"{name} {number}", "completion": "yes"} for number in range(2)]
        if path.suffix == ".parquet":
            pl.DataFrame(rows).write_parquet(path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def read(path: Path, split: str | None = None) -> tuple[set[str], SourceReport]:
    """The files that rows came of."""
    source = SourceSpec(path=str(path), split=split)
    frame, report = read_source(source, "train", path.parent, Reading("chat", None, 1), Ledger())
    return {turns[0]["content"].rpartition(" ")[0] for turns in frame["messages"].to_list()}, report


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (HUB, "test, train"),
        ([f"data/{name}" for name in HUB], "test, train"),
        (["train/0000.parquet", "validation/0000.parquet"], "train, validation"),
        (["default/train/0000.parquet", "default/test/0000.parquet"], "test, train"),
        (["train.jsonl", "dev.jsonl", "eval.jsonl"], "test, train, validation"),
        (["faq-train.jsonl", "faq-test.jsonl"], "test, train"),
        (["train_sft-00000-of-00001.parquet", "test_sft-00000-of-00001.parquet"], "test_sft, train_sft"),
        (
            ["train-00000-of-00001-a09b74b3ef9c3b56.parquet", "unsupervised-00000-of-00001.parquet"],
            "train, unsupervised",
        ),
    ],
)
def test_several_splits_are_refused_by_name(tmp_path: Path, names: list[str], splits: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        read(laid_out(tmp_path / "set", *names))
    assert caught.value.code == "data.several_splits" and caught.value.facts["splits"] == splits
    with pytest.raises(TunesmithError, match=r"data\.several_splits"):
        inputs_of([SourceSpec(path=str(tmp_path / "set"))], tmp_path)


def test_the_named_split_is_read_and_the_others_are_told(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "set", *(f"data/{name}" for name in HUB))
    found, report = read(folder, "train")
    assert found == {f"data/{name}" for name in HUB[:2]} and [each.rows for each in report.files] == [2, 2]
    assert [note.facts["path"] for note in report.notes if note.code == "data.passed_over"] == [
        f"{folder}/data/{HUB[2]}"
    ]
    assert read(folder, "test")[0] == {f"data/{HUB[2]}"}
    assert [each.path.name for each in inputs_of([SourceSpec(path=str(folder), split="test")], tmp_path)] == [HUB[2]]
    for wrong in ("validation", "trial"):
        with pytest.raises(TunesmithError) as caught:
            read(folder, wrong)
        assert caught.value.code == "data.no_such_split" and caught.value.facts["splits"] == "test, train"
    with pytest.raises(TunesmithError, match=r"data\.no_such_split"):
        read(laid_out(tmp_path / "plain", "a.jsonl") / "a.jsonl", "train")


def test_an_archive_of_several_splits(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "set", "data/train.jsonl", "data/test.jsonl", "README.md")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    with pytest.raises(TunesmithError, match=r"data\.several_splits"):
        read(tmp_path / "set.zip")
    found, report = read(tmp_path / "set.zip", "train")
    assert found == {"data/train.jsonl"}
    assert {note.facts["path"] for note in report.notes if note.code == "data.passed_over"} == {
        "set.zip/README.md",
        "set.zip/data/test.jsonl",
    }


@pytest.mark.parametrize(
    "names", [["a.jsonl", "b.jsonl"], ["train-1.jsonl", "train-2.jsonl", "more.jsonl"], ["2024/test.jsonl", "x.jsonl"]]
)
def test_one_split_or_none_is_read_whole(tmp_path: Path, names: list[str]) -> None:
    assert read(laid_out(tmp_path / "set", *names))[0] == set(names)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-schedule.jsonl", None),
        ("contest.jsonl", None),
        ("training_2.jsonl.gz", "train"),
        ("tests/a.jsonl", None),
        ("val.csv", "validation"),
        ("part-00000-of-00003.parquet", "part"),
        ("train/data-00000-of-00002.arrow", "train"),
    ],
)
def test_names(name: str, split: str | None) -> None:
    assert split_of(name) == split


RECIPE = """
model: {{base: smollm2-135m}}
data:
  sources: [{{path: {0}, split: train}}]
  test_sources: [{{path: {0}, split: test}}]
stages: [{{name: instruct}}]
"""


def test_a_recipe_takes_each_split_for_what_it_is(tmp_path: Path) -> None:
    folder = laid_out(tmp_path / "set", *(f"train-{n:05}-of-00009.parquet" for n in range(9)), HUB[2])
    recipe = parse_recipe(RECIPE.format(folder))
    prepared = prepare(recipe.data, tmp_path, Ledger())
    asked = [turns[0]["content"] for turns in prepared.frames["test"]["messages"].to_list()]
    assert all(each.startswith("test-") for each in asked) and len(asked) == 2
    with pytest.raises(TunesmithError, match=r"recipe\.bad_value"):
        parse_recipe(
            RECIPE.format("x").replace("path: x, split: train", "query: select 1, database: a.db, split: train")
        )
