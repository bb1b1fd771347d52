"""Rows of a stage's own: every data setting that may stand at a stage does something there, or is refused by name."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.near_stored import near_leaks, refuse_near_leaks
from tunesmith.data.pii.sealed import FILE, unseal
from tunesmith.data.prepare import load_beside, load_tables, prepare, write
from tunesmith.data.prepared import Prepared
from tunesmith.messages import error_codes
from tunesmith.recipe.identity import source_hashes
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.base import Spec
from tunesmith.recipe.specs.data import CleanSpec, StageDataSpec, StageSplitSpec
from tunesmith.recipe.specs.labels import LabelsSpec

TABLES: dict[str, type[Spec]] = {"clean": CleanSpec, "split": StageSplitSpec, "labels": LabelsSpec}
WORDS = {"good": "lovely nice great warm fine happy bright", "bad": "awful broken poor cold late rude dirty"}
SHARED = "the of and to in that it is was for on are as with his they at be this have from or one had by word but what"
Settings = dict[str, object]

CASES: dict[str, tuple[Settings, Settings]] = {
    "task": ({}, {"task": "token_class"}),
    "rows": ({}, {"rows": "text"}),
    "tasks": ({}, {"tasks": {"own": "token_class"}}),
    "sources": ({}, {"sources": [{"path": "other.csv"}]}),
    "validation_sources": ({}, {"validation_sources": [{"path": "other.csv"}]}),
    "clean.normalize": ({}, {"clean": {"normalize": False}}),
    "clean.exact_duplicates": ({}, {"clean": {"exact_duplicates": False}}),
    "clean.near_duplicates": ({}, {"clean": {"near_duplicates": 0.6}}),
    "clean.semantic_duplicates": ({}, {"clean": {"semantic_duplicates": 0.9}}),
    "clean.repair": ({}, {"clean": {"repair": {"rules": ["html"]}}}),
    "clean.filter": ({}, {"clean": {"filter": {"rules": ["too_short"], "min_characters": 30}}}),
    "clean.pii": ({}, {"clean": {"pii": "mask"}}),
    "clean.content": ({}, {"clean": {"content": {"word_lists": [{"path": "words.txt", "action": "drop"}]}}}),
    "split.train": ({}, {"split": {"train": 0.5, "validation": 0.5}}),
    "split.validation": ({}, {"split": {"train": 0.6, "validation": 0.4}}),
    "split.group_by": ({}, {"split": {"group_by": "customer"}}),
    "split.time_by": ({}, {"split": {"time_by": "day"}}),
    "split.stratify_by": ({}, {"split": {"stratify_by": "class"}}),
    "split.seed": ({}, {"split": {"seed": 7}}),
    "labels.names": ({}, {"labels": {"names": {"Good": "good"}, "suspected": "ignore"}}),
    "labels.suspected": ({}, {"labels": {"suspected": "drop", "at_least": 0.5}}),
    "labels.at_least": ({"labels": {"at_least": 0.5}}, {"labels": {"at_least": 1.0}}),
    "labels.folds": ({"labels": {"at_least": 0.5}}, {"labels": {"at_least": 0.5, "folds": 3}}),
}
"""For every setting: what stands beside it, and the same with the setting changed."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = random.Random(3)
    chats = [f"how do I find the {place}th door of house {place * place}" for place in range(40)]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": each}, {"role": "assistant", "content": "a"}]})
        for each in chats
    ]
    (tmp_path / "run.jsonl").write_text("\n".join(lines), "utf-8")
    rows: list[tuple[str, str]] = []
    for place in range(100):
        label = ("good", "bad")[place % 2]
        said = [*draw.choices(WORDS[label].split(), k=5), *draw.choices(SHARED.split(), k=9)]
        draw.shuffle(said)
        flipped = {"good": "bad", "bad": "good"}[label] if place % 25 == 3 else label
        rows.append((" ".join(said), flipped))
    rows += [rows[0], (f"{rows[1][0]} indeed", rows[1][1]), ("nice day", "Good"), ("so\u200b fine ", "good")]
    rows += [("<p>lovely <b>warm</b> house</p>", "good"), ("call 13800138000 now, a rude man", "bad")]
    rows += [("a forbidden word in a poor house", "bad")]
    write_csv(tmp_path / "own.csv", rows)
    write_csv(tmp_path / "other.csv", [(f"another {text}", label) for text, label in rows[:30]])
    (tmp_path / "words.txt").write_text("forbidden\n", "utf-8")
    return tmp_path


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "customer", "day"])
        for place, (text, label) in enumerate(rows):
            writer.writerow([text, label, f"c{place % 9}", date(2024, 1, 1) + timedelta(days=place)])


def recipe(data: Mapping[str, object], **run: object) -> Recipe:
    own = {"task": "text_class", "sources": [{"path": "own.csv", "name": "own"}]}
    stages = [{"name": "first", "data": own | dict(data)}, {"name": "last"}]
    rows = {"sources": [{"path": "run.jsonl"}], **run}
    return Recipe.model_validate({"model": {"base": "smollm2-135m"}, "data": rows, "stages": stages})


def prepared_of(stated: Recipe, folder: Path, ledger: Ledger | None = None) -> Prepared:
    return prepare(stated.data, folder, ledger or Ledger(), stated.stages, embed=by_length)


def by_length(texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors that are the same for texts of about one length."""
    vectors = np.zeros((len(texts), 100), np.float32)
    vectors[np.arange(len(texts)), [len(each) // 10 % 100 for each in texts]] = 1
    return vectors


def outcome(data: Mapping[str, object], folder: Path) -> object:
    """All that a user can tell apart: rows by table, what became of every row, and labels in doubt; or the refusal."""
    try:
        stated = recipe(data)
    except ValueError as error:
        return str(error)
    ledger = Ledger()
    try:
        found = prepared_of(stated, folder, ledger)
    except TunesmithError as error:
        assert error.code in error_codes()
        return error.code
    columns = ("row", "kind", "text", "labels", "group")
    tables = {name: frame.select(columns).to_dicts() for name, frame in found.beside.items()}
    return tables, dict(ledger.totals()), ledger.changed(), found.suspected


def test_every_setting_of_a_stage_is_tried() -> None:
    below = {f"{table}.{name}" for table, spec in TABLES.items() for name in spec.model_fields}
    assert set(CASES) == {name for name in StageDataSpec.model_fields if name not in TABLES} | below


@pytest.mark.parametrize("setting", sorted(CASES))
def test_no_setting_of_a_stage_is_without_effect(folder: Path, setting: str) -> None:
    without, with_it = CASES[setting]
    assert outcome(without, folder) != outcome(with_it, folder)


@pytest.mark.parametrize("unknown", ["augment", "benchmarks", "test_sources", "split.test", "split.fold"])
def test_what_only_the_runs_rows_can_have_is_refused_at_a_stage(unknown: str) -> None:
    table, _, name = unknown.rpartition(".")
    with pytest.raises(ValueError, match=name):
        recipe({table: {name: {}}} if table else {name: {}})


def test_a_stages_rows_are_parted_by_a_time_of_their_own_and_the_stored_ones_prove_it(folder: Path) -> None:
    stated = recipe({"split": {"time_by": "day"}})
    found = prepared_of(stated, folder)
    older, newer = found.beside["first-train"], found.beside["first-validation"]
    assert older["time"].max() < newer["time"].min()
    assert {note.facts["split"] for note in found.notes if note.code == "data.split_by_time"} == {
        "first-train",
        "first-validation",
    }
    swapped = {"first-train": newer, "first-validation": older}
    store(Prepared(found.frames, found.ledger, (), (), swapped), folder / "swapped")
    with pytest.raises(TunesmithError) as caught:
        load_beside(folder / "swapped")
    assert caught.value.code == "data.time_order"


def test_a_column_of_times_that_is_not_there_is_refused_for_the_stage_alone(folder: Path) -> None:
    assert outcome({"split": {"time_by": "month"}}, folder) == "data.missing_time"


def store(found: Prepared, path: Path) -> Path:
    path.mkdir()
    write(found, path)
    return path


def test_labels_of_a_stages_rows_are_renamed_and_doubted(folder: Path) -> None:
    found = prepared_of(recipe({"labels": {"names": {"Good": "good"}, "at_least": 0.5}}), folder)
    assert {label for frame in found.beside.values() for label in frame["labels"].explode()} == {"good", "bad"}
    flipped = {40 + place for place in range(100) if place % 25 == 3}
    assert flipped & {row for row, _ in found.suspected}
    path = store(found, folder / "run")
    lines = [json.loads(line) for line in (path / "suspected_labels.jsonl").read_text("utf-8").splitlines()]
    assert {line["source"] for line in lines} == {"own"}


def test_personal_data_of_a_stage_are_reported_and_kept_under_the_one_key(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_KEY", "k" * 32)
    found = prepared_of(recipe({"clean": {"pii": {"key": "OWN_KEY"}}}), folder)
    path = store(found, folder / "run")
    assert list(unseal(path / FILE, b"k" * 32).values()) == ["13800138000"]
    assert "own" in (path / "compliance_report.md").read_text("utf-8")


def test_a_placeholder_means_the_same_in_the_rows_of_run_and_stage(folder: Path) -> None:
    with (folder / "run.jsonl").open("a", encoding="utf-8") as file:
        turns = [{"role": "user", "content": "my number is 13900139000"}, {"role": "assistant", "content": "b"}]
        file.write("\n" + json.dumps({"messages": turns}))
    found = prepared_of(recipe({"clean": {"pii": {"types": ["phone"]}}}, clean={"pii": "mask"}), folder)
    of_run, of_stage = found.personal
    assert of_run.masker is of_stage.masker
    assert sorted(of_run.masker.values.values()) == ["13800138000", "13900139000"]


def test_two_keys_in_one_run_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "k" * 32)
    with pytest.raises(TunesmithError) as caught:
        prepared_of(recipe({"clean": {"pii": {"key": "OWN_KEY"}}}, clean={"pii": "mask"}), folder)
    assert caught.value.code == "data.several_keys"


def test_cleaning_that_only_the_runs_rows_get_is_said(folder: Path) -> None:
    found = prepared_of(recipe({}, clean={"pii": "mask", "near_duplicates": 0.9}), folder)
    notes = [note.facts for note in found.notes if note.code == "data.stage_unlike_run"]
    assert notes == [{"stage": "first", "settings": "near_duplicates, pii"}]


def test_a_list_of_words_of_a_stage_is_one_of_the_files_of_the_run(folder: Path) -> None:
    stated = recipe({"clean": {"content": {"word_lists": [{"path": "words.txt"}]}}})
    assert any("words.txt" in name for name in source_hashes(stated, folder))


PROMPTS = [" ".join(random.Random(place).choices(SHARED.split(), k=30)) for place in range(60)]


def near_recipe(folder: Path, run: float | None, stage: float | None) -> tuple[Recipe, Prepared]:
    """A run of chats with a stage of its own chats, prepared."""
    for name, prompts in (("run.jsonl", PROMPTS), ("own.jsonl", [f"{each} again" for each in PROMPTS[::-1]][:40])):
        turns = [[{"role": "user", "content": each}, {"role": "assistant", "content": "a"}] for each in prompts]
        (folder / name).write_text("\n".join(json.dumps({"messages": each}) for each in turns), "utf-8")
    own = {"task": "chat", "sources": [{"path": "own.jsonl"}], "clean": {"near_duplicates": stage}}
    stated = recipe(own, clean={"near_duplicates": run})
    return stated, prepared_of(stated, folder)


def test_the_lower_similarity_keeps_a_stages_rows_from_what_is_asked(tmp_path: Path) -> None:
    for run, stage in ((0.7, None), (None, 0.7)):
        stated, found = near_recipe(tmp_path, run, stage)
        assert near_leaks(found.tables, stated).is_empty()
        assert found.ledger.totals()["dropped: prompt_near_one_in_test"] >= 3


def test_every_near_prompt_that_was_put_into_stored_splits_is_named(tmp_path: Path) -> None:
    stated, found = near_recipe(tmp_path, 0.7, 0.7)
    tables = load_tables(store(found, tmp_path / "run"))
    refuse_near_leaks(tables, stated)
    planted = {"test": tables["train"][:10], "first-train": tables["validation"][:4]}
    expected = set()
    for name, rows in planted.items():
        edited = rows.with_columns(
            row=pl.col("row") + 1000, messages=pl.Series(changed(rows), dtype=rows.schema["messages"])
        )
        expected |= {frozenset({row, row + 1000}) for row in rows["row"]}
        tables[name] = pl.concat([tables[name], edited])
    leaks = near_leaks(tables, stated)
    assert {frozenset({each["row"], each["partner"]}) for each in leaks.iter_rows(named=True)} == expected
    assert leaks["similarity"].is_between(0.7, 1, closed="left").all()
    with pytest.raises(TunesmithError) as caught:
        refuse_near_leaks(tables, stated)
    assert (caught.value.code, caught.value.facts["pairs"]) == ("data.near_leak", 14)
    assert all(str(row) in str(caught.value.facts["rows"]) for pair in expected for row in pair)


def changed(rows: pl.DataFrame) -> list[list[dict[str, object]]]:
    """The turns of rows with the last word of the prompt changed."""
    return [
        [{**turn, "content": f"{turn['content'].rpartition(' ')[0]} other"} for turn in row] for row in rows["messages"]
    ]
