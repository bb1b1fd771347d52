"""Near duplicates of tables and between them; recall and precision on the shared texts whose truth is known."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin, SplitName
from tunesmith.data.apart import near_across, repeats, texts_of
from tunesmith.data.clean import normalize
from tunesmith.data.dedup import close_pairs, drop_near_duplicates, drop_semantic_duplicates, merge_duplicates
from tunesmith.data.prepare import load_splits, prepare, write
from tunesmith.data.split import components, split_rows
from tunesmith.data.table import from_examples, to_examples
from tunesmith.recipe.specs.data import DataSpec

PASSAGE = " ".join(f"word{i}" for i in range(60))
SHARES: dict[SplitName, float] = {"train": 0.7, "validation": 0.15, "test": 0.15}


def text(row: int, content: str) -> Example:
    return Example(row, "text", Origin("s", row, ""), text=content)


def chat(row: int, prompt: str, answer: str, system: str = "") -> Example:
    turns = (Message("user", prompt), Message("assistant", answer))
    return Example(row, "chat", Origin("s", row, ""), (Message("system", system), *turns) if system else turns)


def labelled(row: int, content: str, label: str) -> Example:
    return Example(row, "text_class", Origin("s", row, ""), text=content, labels=(label,))


def kept(examples: Sequence[Example], threshold: float = 0.7) -> tuple[list[int], dict[int, tuple[str, int]]]:
    ledger = Ledger()
    ledger.read("s", len(examples))
    stays = drop_near_duplicates(from_examples(examples), threshold, ledger)["row"].to_list()
    gone = {entry.row: (entry.reason, entry.amount) for entry in ledger.entries() if entry.fate == "dropped"}
    assert sorted([*stays, *gone]) == list(range(len(examples)))
    return stays, gone


def test_the_longest_answer_stays_and_the_ledger_names_it() -> None:
    rows = [
        chat(0, PASSAGE, "yes it is so today"),
        chat(1, PASSAGE.upper() + "!", "Yes, it is so today, indeed"),
        chat(2, "another question altogether", "yes it is so today"),
        chat(3, PASSAGE, "yes: it is so today indeed"),
    ]
    assert kept(rows, 0.5) == ([1, 2], {0: ("near_duplicate_of_row", 1), 3: ("near_duplicate_of_row", 1)})
    assert kept([text(0, PASSAGE), text(1, PASSAGE + " more words")])[0] == [1]
    assert kept([text(0, PASSAGE), text(1, PASSAGE.title())], 1.0)[0] == [0], "of equally long ones the first"


def test_questions_about_one_passage_and_other_labels_stay() -> None:
    rows = [chat(0, PASSAGE + " Who was it?", "Ada"), chat(1, PASSAGE + " When was it?", "1843")]
    assert kept(rows)[0] == [0, 1]
    assert kept([chat(0, PASSAGE + " Was it?", "yes"), chat(1, PASSAGE + " Was it, then?", "yes")])[0] == [0]
    assert kept([labelled(0, PASSAGE, "good"), labelled(1, PASSAGE + ".", "bad")])[0] == [0, 1]
    assert kept([labelled(0, PASSAGE, "good"), labelled(1, PASSAGE + ".", "good")])[0] == [1]


def test_a_shared_system_prompt_makes_nobody_alike() -> None:
    assert kept([chat(0, "What is rain?", "Water.", PASSAGE), chat(1, "Why is it red?", "Iron.", PASSAGE)])[0] == [0, 1]


def test_rows_without_words_are_left_alone() -> None:
    assert kept([text(0, "..."), text(1, "!!!"), text(2, "?")])[0] == [0, 1, 2]
    assert kept([])[0] == []


def test_near_prompts_never_part() -> None:
    rows = from_examples([chat(i, f"{PASSAGE} about {i % 20}", f"answer {i}") for i in range(60)])
    assert components(rows)["component"].n_unique() == 20
    assert components(rows, 0.7)["component"].n_unique() == 1
    rows = from_examples([chat(i, f"t{i // 3} " * 5 + f"of {i // 3} and {i % 3}", "a") for i in range(300)])
    frames = split_rows(rows, SHARES, 1, 0.4)
    assert near_across(frames, 0.4).is_empty()
    assert not near_across(split_rows(rows, SHARES, 1), 0.4).is_empty(), "without it they do part"
    leaky = {**frames, "test": pl.concat([frames["test"], frames["train"][:1].with_columns(row=pl.lit(999, pl.Int64))])}
    found = near_across(leaky, 0.4)
    assert found["partner"].unique().to_list() == [999] and set(found["name"]) == {"train"}


def test_rows_like_given_test_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    def line(prompt: str, answer: str) -> str:
        return json.dumps({"prompt": prompt, "completion": answer}) + "\n"

    different = "".join(line(" ".join(f"w{i}x{j}" for j in range(12)), f"answer {i}") for i in range(60))
    leaked = "".join(line(f"{PASSAGE} number {i}, please", f"reply {i}") for i in range(3))
    (tmp_path / "train.jsonl").write_text(different + leaked, encoding="utf-8")
    (tmp_path / "test.jsonl").write_text(line(f"{PASSAGE} number one", "other"), encoding="utf-8")
    stated = {"sources": [{"path": "train.jsonl"}], "test_sources": [{"path": "test.jsonl"}]}
    spec = DataSpec.model_validate({**stated, "clean": {"near_duplicates": 0.7}})
    ledger = Ledger()
    prepared = prepare(spec, tmp_path, ledger)
    assert ledger.totals()["dropped: prompt_near_one_in_test"] == 3
    gone = [entry for entry in ledger.entries() if entry.reason == "prompt_near_one_in_test"]
    assert {entry.amount for entry in gone} == {0}, "the row of test that they are like"
    assert [note.facts["rows"] for note in prepared.notes if note.code == "data.near_kept_apart"] == [3]
    write(prepared, tmp_path / "run")
    assert sum(map(len, load_splits(tmp_path / "run").values())) == 61
    without = prepare(DataSpec.model_validate(stated), tmp_path, Ledger())
    assert sum(map(len, without.frames.values())) == 64


def test_training_rows_that_repeat_a_benchmark_go(tmp_path: Path) -> None:
    question = "A train leaves the station at nine and reaches the sea at noon, how fast was it over the whole way?"
    rows = from_examples(
        [
            chat(0, "Solve this. " + question.upper() + " Think.", "60"),
            chat(1, "A train leaves the station at nine and something else happens then to it.", "no"),
            chat(2, "How fast was it?", "fast"),
            text(3, "他们在河边的小镇上住了很多年每天早晨都要去市场买菜"),
        ]
    )
    benchmark = {
        "question": question,
        "choices": ["60", "How fast was it?"],
        "zh": ["每天早晨都要去市场买菜他们"],
    }
    passages = list(enumerate(texts_of(benchmark)))
    assert repeats(rows, passages).rows() == [(0, 0), (3, 3)], "a row, and the passage that it repeats"
    assert repeats(rows, []).is_empty() and repeats(rows[:0], passages).is_empty()
    (tmp_path / "probe.jsonl").write_text(json.dumps(benchmark) + "\n", encoding="utf-8")
    lines = [{"prompt": f"{i} is what number, {question if i == 7 else ''}", "completion": "x"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    ledger = Ledger()
    stated = {"sources": [{"path": "rows.jsonl"}], "benchmarks": [{"path": "probe.jsonl", "name": "probe"}]}
    prepared = prepare(DataSpec.model_validate(stated), tmp_path, ledger)
    assert ledger.totals()["dropped: repeats_benchmark"] == 1
    assert ledger.entries()[7].reason == "repeats_benchmark"
    assert {"rows": 1, "name": "probe", "split": "train"} in [note.facts for note in prepared.notes]


def unit(*rows: Sequence[float]) -> np.ndarray:
    vectors = np.array(rows, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_rows_of_one_meaning_become_one(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit([1, 0, 0], [0.99, 0.1, 0], [0, 1, 0], [0, 0, 1], [0, 0.02, 1])
    monkeypatch.setattr("tunesmith.data.dedup._VECTORS_AT_ONCE", 2)
    pairs = close_pairs(vectors, 0.95)
    assert sorted(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == [(0, 1), (3, 4)]
    assert np.allclose(pairs.similarity, (vectors[pairs.left] * vectors[pairs.right]).sum(axis=1))
    ledger = Ledger()
    ledger.read("s", 5)
    rows = from_examples([chat(i, f"question {i}", "a" * i) for i in range(5)])
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return vectors

    assert drop_semantic_duplicates(rows, 0.95, embed, ledger)["row"].to_list() == [1, 2, 4]
    assert [entry.amount for entry in ledger.entries() if entry.reason == "semantic_duplicate_of_row"] == [1, 4]
    assert [each.split("\n")[0].strip() for each in asked] == [f"question {i}" for i in range(5)]


@pytest.fixture(scope="module")
def dirty(shared_data: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    folder = shared_data / "dirty-text"
    if not (folder / "corpus_truth.jsonl").is_file():
        pytest.skip("needs the shared texts with known faults")
    rows, truth = (
        [json.loads(line) for line in (folder / name).read_bytes().split(b"\n") if line]
        for name in ("corpus.jsonl", "corpus_truth.jsonl")
    )
    return rows, truth


def families(truth: Sequence[dict[str, str]]) -> list[str]:
    """The row that each row is a copy of, copies of copies included."""
    origin = {row["id"]: row.get("dup_of", "") for row in truth}

    def root(name: str) -> str:
        while origin[name]:
            name = origin[name]
        return name

    return [root(row["id"]) for row in truth]


def test_planted_duplicates_are_found_and_nothing_else(
    dirty: tuple[list[dict[str, str]], list[dict[str, str]]],
) -> None:
    rows, truth = dirty
    family = families(truth)
    wanted = [i for i, row in enumerate(truth) if row["op"] in ("clean", "exact_dup", "format_dup", "near_dup")]
    ledger = Ledger()
    ledger.read("s", len(rows))
    frame = normalize(from_examples([text(i, rows[i]["text"]) for i in wanted]))[0]
    drop_near_duplicates(merge_duplicates(frame, ledger), 0.7, ledger)
    gone = {entry.row: entry for entry in ledger.entries() if entry.fate != "kept"}
    right = [family[row] == family[entry.amount] for row, entry in gone.items()]
    near = [family[row] == family[entry.amount] for row, entry in gone.items() if entry.reason.startswith("near")]
    assert np.mean(right) >= 0.98 and np.mean(near) >= 0.95
    copies = Counter(family[i] for i in wanted)
    left = Counter(family[i] for i in wanted if i not in gone)
    assert 1 - sum(n - 1 for n in left.values()) / sum(n - 1 for n in copies.values()) >= 0.98
    planted = [family[i] for i in wanted if truth[i]["op"] == "near_dup"]
    assert len(planted) > 100
    assert np.mean([left[name] == 1 for name in planted]) >= 0.95


def test_planted_leaks_across_splits_are_all_reported_and_none_is_left(
    dirty: tuple[list[dict[str, str]], list[dict[str, str]]],
) -> None:
    rows, truth = dirty
    family = families(truth)
    first = [i for i, row in enumerate(truth) if row["op"] == "clean"]
    copies = [i for i, row in enumerate(truth) if row["op"] in ("exact_dup", "format_dup")]
    frames = {
        name: normalize(from_examples([text(i, rows[i]["text"]) for i in chosen]))[0]
        for name, chosen in (("test", first), ("train", copies))
    }
    reported = near_across(frames, 0.7)
    assert set(reported["row"]) == set(copies), "every planted copy is told before"
    assert all(family[row] == family[partner] for row, partner in reported.select("row", "partner").rows())
    left = frames["train"].filter(~pl.col("row").is_in(reported["row"].implode()))
    assert near_across({**frames, "train": left}, 0.7).is_empty()
    assert to_examples(left) == []
