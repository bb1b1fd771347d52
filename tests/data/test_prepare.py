from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file, write_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS
from tunesmith.data.defects import Reason
from tunesmith.data.prepare import load_split, load_splits, prepare, write
from tunesmith.data.samples.tickets import write_tickets
from tunesmith.data.table import SCHEMA
from tunesmith.messages import LANGUAGES, both, error_codes, explain
from tunesmith.recipe.specs.data import DataSpec


def chat_row(prompt: object, answer: object = "a", **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **more}


def write_rows(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def spec(*paths: str, **more: object) -> DataSpec:
    return DataSpec.model_validate({"sources": [{"path": path} for path in paths], **more})


def test_every_row_of_every_file_has_a_fate(tmp_path: Path) -> None:
    good: list[object] = [chat_row(f"question {i}") for i in range(40)]
    write_rows(tmp_path / "a.jsonl", [*good, good[3], chat_row(" question 4 "), chat_row("\x07"), {"x": 1}])
    write_rows(tmp_path / "b.jsonl", [chat_row(f"more {i}") for i in range(10)])
    ledger = Ledger()
    prepared = prepare(spec("a.jsonl", "b.jsonl"), tmp_path, ledger)
    assert dict(ledger.totals()) == {
        "dropped: empty_prompt": 1,
        "dropped: missing_columns": 1,
        "kept": 50,
        "merged: exact_duplicate_of_row": 2,
    }
    assert {split: len(part) for split, part in prepared.frames.items()} == {"train": 35, "validation": 7, "test": 8}
    assert [(file.rows, file.readable) for source in prepared.sources for file in source.files] == [(44, 43), (10, 10)]
    assert prepared.sources[0].files[0].sha256 == sha256_file(tmp_path / "a.jsonl")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "tool", "alien"]) | JSON,
        "content": st.text(max_size=6) | JSON,
    },
    optional={"weight": JSON, "train": JSON, "tool_calls": JSON, "name": JSON, "tool_call_id": JSON},
)
ROW = st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4) | JSON}, optional={"tools": JSON, "system": JSON})
LINE = ROW.map(json.dumps) | JSON.map(json.dumps) | st.sampled_from(['{"messages": [', '{"a": 1, "a": 2}', "[" * 3000])


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE, max_size=12), st.randoms(use_true_random=False))
def test_the_ledger_adds_up_on_defective_files(lines: list[str], order: object) -> None:
    content = [*lines, *(json.dumps(chat_row(f"question {i}")) for i in range(15))]
    order.shuffle(content)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows.jsonl").write_text("\n".join(content), encoding="utf-8")
        ledger = Ledger()
        prepared = prepare(spec("rows.jsonl"), Path(folder), ledger)
    assert len(ledger) == len(content)
    kept = sorted(row for part in prepared.frames.values() for row in part["row"])
    assert kept == ledger.kept_rows()
    assert len(kept) >= 15
    assert all(part.schema == SCHEMA for part in prepared.frames.values())
    assert {entry.reason for entry in ledger.entries()} <= {"", *get_args(Reason)}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["preference", "kto"]), st.data())
def test_defective_pairs_never_end_in_a_traceback(kind: str, data: st.DataObject) -> None:
    said = st.lists(TURN, max_size=3) | st.text(max_size=6) | JSON
    names = ["prompt", "chosen", "rejected"] if kind == "preference" else ["prompt", "completion", "label"]
    rows = data.draw(
        st.lists(st.fixed_dictionaries({name: said for name in names}, optional={"tools": JSON}), min_size=1)
    )
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.jsonl", list(rows))
        ledger = Ledger()
        layout = {"path": "rows.jsonl", "layout": kind}
        try:
            prepare(DataSpec.model_validate({"rows": kind, "sources": [layout]}), Path(folder), ledger)
        except TunesmithError as error:
            assert error.code in ("data.no_rows", "data.too_few_prompts")
        assert len(ledger) == len(rows)


def test_training_rows_that_stand_in_given_test_rows_are_taken_out(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [chat_row(f"question {i}", group=f"g{i}") for i in range(20)])
    write_rows(tmp_path / "test.jsonl", [chat_row("Question 3!", "b", group="x"), chat_row("new", group="g5")])
    write_rows(tmp_path / "validation.jsonl", [chat_row("question 7"), chat_row("NEW"), chat_row("own")])
    ledger = Ledger()
    prepared = prepare(
        spec(
            "train.jsonl",
            test_sources=[{"path": "test.jsonl"}],
            validation_sources=[{"path": "validation.jsonl"}],
            split={"group_by": "group"},
        ),
        tmp_path,
        ledger,
    )
    assert {split: len(part) for split, part in prepared.frames.items()} == {"train": 17, "validation": 2, "test": 2}
    assert dict(ledger.totals()) == {
        "kept": 21,
        "dropped: group_also_in_test": 1,
        "dropped: prompt_also_in_test": 2,
        "dropped: prompt_also_in_validation": 1,
    }


def test_only_the_missing_split_is_cut_when_the_other_is_given(tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [chat_row(f"question {i}") for i in range(170)])
    write_rows(tmp_path / "test.jsonl", [chat_row("t1"), chat_row("t2")])
    prepared = prepare(spec("train.jsonl", test_sources=[{"path": "test.jsonl"}]), tmp_path, Ledger())
    assert {split: len(part) for split, part in prepared.frames.items()} == {"train": 140, "validation": 30, "test": 2}


def test_a_sample_is_drawn_and_the_rest_has_a_fate(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [chat_row(f"question {i}") for i in range(100)])
    drawn = []
    for _ in range(2):
        ledger = Ledger()
        data = DataSpec.model_validate({"sources": [{"path": "rows.jsonl", "sample": 30}]})
        drawn.append(prepare(data, tmp_path, ledger).frames)
        assert dict(ledger.totals()) == {"kept": 30, "dropped: not_sampled": 70}
    assert all(drawn[0][split].equals(drawn[1][split]) for split in SPLITS)


def test_stored_splits_are_checked_when_they_are_loaded(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [chat_row(f"question {i}") for i in range(30)])
    prepared = prepare(spec("rows.jsonl"), tmp_path, Ledger())
    with pytest.raises(TunesmithError, match=r"data.not_prepared"):
        load_split(tmp_path, "train")
    paths = write(prepared, tmp_path)
    assert {path.name for path in paths} == {
        *(f"{s}.parquet" for s in SPLITS),
        "manifest.json",
        "data_card.md",
        "data_card.html",
    }
    assert all(load_splits(tmp_path)[split].equals(prepared.frames[split]) for split in SPLITS)
    first = {path.name: sha256_file(path) for path in paths}
    assert first == {path.name: sha256_file(path) for path in write(prepared, tmp_path)}

    folder = tmp_path / "data"
    pl.concat([prepared.frames["test"], prepared.frames["train"][:1]]).write_parquet(folder / "test.parquet")
    with pytest.raises(TunesmithError, match=r"core.hash_differs"):
        load_split(tmp_path, "test")
    write_manifest(folder, {"files": {f"{s}.parquet": sha256_file(folder / f"{s}.parquet") for s in SPLITS}})
    with pytest.raises(TunesmithError, match=r"data.leak"):
        load_split(tmp_path, "test")


def test_no_error_and_no_ledger_line_tells_what_a_row_says(tmp_path: Path) -> None:
    secret = "Kontonummer4711"
    write_rows(
        tmp_path / "rows.jsonl",
        [chat_row(f"{secret} {i}", "") for i in range(3)] + [{"messages": [{"role": secret, "content": secret}]}],
    )
    ledger = Ledger()
    with pytest.raises(TunesmithError, match=r"data.no_rows .*empty_answer") as caught:
        prepare(spec("rows.jsonl"), tmp_path, ledger)
    ledger.write(tmp_path / "ledger.jsonl")
    assert secret not in str(caught.value) + (tmp_path / "ledger.jsonl").read_text()


def test_group_column_that_nobody_has(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [chat_row("q")])
    with pytest.raises(TunesmithError, match=r"data.missing_group"):
        prepare(spec("rows.jsonl", split={"group_by": "customer"}), tmp_path, Ledger())


def test_the_sample_tickets_pass_through_whole(tmp_path: Path) -> None:
    write_tickets(tmp_path, train=200, validation=40, test=40, seed=1)
    data = spec(
        "train.jsonl",
        validation_sources=[{"path": "validation.jsonl"}],
        test_sources=[{"path": "test.jsonl"}],
        split={"group_by": "template"},
    )
    ledger = Ledger()
    prepared = prepare(data, tmp_path, ledger)
    assert dict(ledger.totals()) == {"kept": 280}
    card_path = write(prepared, tmp_path, tokens={"test": [100] * 40})[-1]
    card = card_path.read_text("utf-8")
    assert str(tmp_path) not in card
    for words in (
        "Data card / 数据卡",
        "| test | 40 | 14.3% |",
        prepared.sources[0].files[0].sha256,
        "tokens / token | 100.0",
    ):
        assert words in card


def test_every_reason_and_error_has_words_in_both_languages() -> None:
    for reason in get_args(Reason):
        assert set(both(f"data.reason_{reason}")) == set(LANGUAGES)
    for code in error_codes():
        if code.startswith("data."):
            assert all(explain(code, language).next_step for language in LANGUAGES)


REAL = [
    ("chat-toolcall", "chat", 324),
    ("chat-zh-crosswoz", "chat", 500),
    ("instruct-en", "chat", 1579),
    ("instruct-zh", "chat", 3792),
    ("instruct-identity", "chat", 75),
    ("medical-zh-qa", "chat", 4000),
    ("math-gsm8k", "chat", 1500),
    ("preference-en", "preference", 709),
    ("preference-zh", "preference", 612),
    ("feedback-en-kto", "kto", 238),
]


@pytest.mark.parametrize(("folder", "kind", "rows"), REAL)
def test_real_data_sets_are_read_whole(shared_data: Path, folder: str, kind: str, rows: int) -> None:
    ledger = Ledger()
    prepared = prepare(DataSpec.model_validate({"rows": kind, "sources": [{"path": folder}]}), shared_data, ledger)
    assert dict(ledger.totals()) == {"kept": rows}
    for split, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        assert abs(len(prepared.frames[split]) - share * rows) <= max(0.01 * rows, 1)


def test_broken_rows_of_a_real_data_set_are_found(shared_data: Path) -> None:
    folder = shared_data / "dirty-text"
    ledger = Ledger()
    prepare(spec("sft_broken.jsonl"), folder, ledger)
    truth = [json.loads(line) for line in (folder / "sft_broken_truth.jsonl").read_text("utf-8").splitlines()]
    gone = {"invalid_json", "missing_messages", "no_assistant", "starts_with_assistant", "content_not_text",
            "two_users_in_a_row"}  # fmt: skip
    for entry, told in zip(ledger.entries(), truth, strict=True):
        if told["problem"] in gone:
            assert entry.fate == "dropped"
        elif told["problem"] is None:
            assert entry.fate in ("kept", "merged")


@pytest.mark.parametrize(
    ("split", "more", "code"),
    [
        ({"stratify_by": "class"}, {}, "data.no_classes"),
        ({"fold": {"number": 1, "of": 3}}, {"test_sources": [{"path": "b.jsonl"}]}, "data.fold_and_test"),
    ],
)
def test_ways_to_split_that_cannot_be_are_refused(
    tmp_path: Path, split: dict[str, object], more: dict[str, object], code: str
) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / f"{name}.jsonl", [chat_row(f"{name} {i}") for i in range(20)])
    with pytest.raises(TunesmithError) as caught:
        prepare(spec("a.jsonl", split=split, **more), tmp_path, Ledger())
    assert caught.value.code == code


def test_folds_of_a_recipe_share_out_the_test_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [chat_row(f"question {i}") for i in range(60)])
    tested = []
    for number in (1, 2, 3):
        prepared = prepare(spec("a.jsonl", split={"fold": {"number": number, "of": 3}}), tmp_path, Ledger())
        tested += prepared.frames["test"]["row"].to_list()
    assert sorted(tested) == list(range(60))
