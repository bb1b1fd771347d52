from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import sha256_file, write_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS, Example, Message, Origin, SplitName
from tunesmith.data.by_time import check_order, split_by_time
from tunesmith.data.formats.times import moment_of
from tunesmith.data.prepare import load_splits, prepare, write
from tunesmith.data.prepared import Prepared
from tunesmith.data.table import from_examples, to_examples
from tunesmith.recipe.specs.data import DataSpec, SplitSpec

SHARES: dict[SplitName, float] = {"train": 0.7, "validation": 0.15, "test": 0.15}
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def table(days: list[int]) -> pl.DataFrame:
    turns = (Message("user", "q"), Message("assistant", "a"))
    return from_examples(
        [Example(row, "chat", Origin("s", row, "", BEGIN + timedelta(day)), turns) for row, day in enumerate(days)]
    )


def chat_row(prompt: str, at: object, **more: object) -> dict[str, object]:
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "a"}]
    return {"messages": turns, "at": at, **more}


def prepared(folder: Path, rows: list[dict[str, object]], ledger: Ledger, **split: object) -> Prepared:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    wished = {"sources": [{"path": "rows.jsonl"}], "split": {"time_by": "at", **split}}
    return prepare(DataSpec.model_validate(wished), folder, ledger)


def day(number: int) -> str:
    return (BEGIN + timedelta(number)).date().isoformat()


@pytest.mark.parametrize(
    ("stated", "moment"),
    [
        ("2026-01-31T12:30:00+02:00", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
        ("2026-01-31 12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        (" 2026-01-31 ", datetime(2026, 1, 31, tzinfo=UTC)),
        ("20260131", datetime(2026, 1, 31, tzinfo=UTC)),
        (20260131, datetime(2026, 1, 31, tzinfo=UTC)),
        (1_000_000_000, datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)),
        ("1000000000.5", datetime(2001, 9, 9, 1, 46, 40, 500_000, tzinfo=UTC)),
        (date(2026, 1, 31), datetime(2026, 1, 31, tzinfo=UTC)),
        (
            datetime(2026, 1, 31, 1, tzinfo=timezone(timedelta(hours=8))),
            datetime(2026, 1, 30, 17, tzinfo=UTC),
        ),
        (1_700_000_000_000, None),  # milliseconds
        ("yesterday", None),
        ("31.01.2026", None),
        (True, None),
        (None, None),
        (float("nan"), None),
        ([], None),
    ],
)
def test_moments_are_read_on_one_clock(stated: object, moment: datetime | None) -> None:
    assert moment_of(stated) == moment


def test_rows_with_times_of_their_own_are_cut_exactly_at_the_shares() -> None:
    days = np.random.default_rng(1).permutation(200).tolist()
    parts = split_by_time(table(days), SHARES)
    assert {split: sorted(days[row] for row in part["row"]) for split, part in parts.items()} == {
        "train": list(range(140)),
        "validation": list(range(140, 170)),
        "test": list(range(170, 200)),
    }
    assert all(part["row"].is_sorted() for part in parts.values())


@given(st.lists(st.integers(0, 12), min_size=3, max_size=80))
def test_rows_of_one_time_never_part_and_boundaries_are_the_nearest(days: list[int]) -> None:
    if len(set(days)) < 3:
        with pytest.raises(TunesmithError, match=r"data.too_few_times"):
            split_by_time(table(days), SHARES)
        return
    parts = split_by_time(table(days), SHARES)
    check_order(parts)
    found = {split: sorted(days[row] for row in part["row"]) for split, part in parts.items()}
    assert found["train"] + found["validation"] + found["test"] == sorted(days)
    assert all(found.values())
    # The first boundary, tried by hand: no other one that leaves two moments behind it is nearer to its share.
    moments = sorted(set(days))
    ends = [sum(each <= moment for each in days) for moment in moments[:-2]]
    assert abs(len(found["train"]) - 0.7 * len(days)) <= min(abs(end - 0.7 * len(days)) for end in ends) + 1e-9


def test_times_that_do_not_part_the_splits_are_named() -> None:
    frames: dict[SplitName, pl.DataFrame] = {"train": table([0, 5]), "validation": table([5, 6]), "test": table([7])}
    with pytest.raises(TunesmithError, match=r"data.time_order") as caught:
        check_order(frames)
    assert caught.value.facts["newest"] == caught.value.facts["oldest"] == "2026-01-06T00:00:00Z"
    check_order(frames | {"train": table([0, 4])})


def test_a_time_stays_with_its_row_as_a_value() -> None:
    (example,) = to_examples(table([3]))
    assert example.origin.time == BEGIN + timedelta(3)


def test_the_newest_rows_are_asked_and_the_stored_splits_prove_it(tmp_path: Path) -> None:
    ledger = Ledger()
    made = prepared(tmp_path, [chat_row(f"question {i}", day(i)) for i in range(40)], ledger)
    assert {split: made.frames[split]["row"].to_list() for split in SPLITS} == {
        "train": list(range(28)),
        "validation": list(range(28, 34)),
        "test": list(range(34, 40)),
    }
    stated = [note.facts for note in made.notes if note.code == "data.split_by_time"]
    assert stated[2] == {"split": "test", "rows": 6, "first": "2026-02-04T00:00:00Z", "last": "2026-02-09T00:00:00Z"}
    write(made, tmp_path)
    assert "2026-02-04T00:00:00Z" in (tmp_path / "data_card.md").read_text("utf-8")
    assert load_splits(tmp_path)["test"].equals(made.frames["test"])

    folder = tmp_path / "data"
    swapped = pl.concat([made.frames["train"][:-1], made.frames["test"][-1:]])
    swapped.write_parquet(folder / "train.parquet")
    pl.concat([made.frames["test"][:-1], made.frames["train"][-1:]]).write_parquet(folder / "test.parquet")
    write_manifest(folder, {"files": {f"{s}.parquet": sha256_file(folder / f"{s}.parquet") for s in SPLITS}})
    with pytest.raises(TunesmithError, match=r"data.time_order"):
        load_splits(tmp_path)


def test_the_seed_moves_nothing(tmp_path: Path) -> None:
    rows = [chat_row(f"question {i}", day(i % 17)) for i in range(60)]
    first, second = (prepared(tmp_path, rows, Ledger(), seed=seed) for seed in (1, 2))
    assert all(first.frames[split].equals(second.frames[split]) for split in SPLITS)


def test_old_rows_of_a_prompt_or_group_that_is_asked_about_go(tmp_path: Path) -> None:
    rows = [chat_row(f"question {i}", day(i), who=f"customer {i}") for i in range(40)]
    rows[3]["who"] = "customer 39"
    turns: object = [{"role": "user", "content": "Question 38?"}, {"role": "assistant", "content": "another"}]
    rows[5]["messages"] = turns
    ledger = Ledger()
    made = prepared(tmp_path, rows, ledger, group_by="who")
    gone = {entry.row: entry.reason for entry in ledger.entries() if entry.fate == "dropped"}
    assert gone == {3: "group_also_in_test", 5: "prompt_also_in_test"}
    assert {38, 39} <= set(made.frames["test"]["row"])
    assert 3 not in made.frames["train"]["row"] and 5 not in made.frames["train"]["row"]


def test_groups_that_time_would_tear_apart_are_refused(tmp_path: Path) -> None:
    rows = [chat_row(f"question {i}", day(i), who=f"customer {i % 4}") for i in range(40)]
    with pytest.raises(TunesmithError, match=r"data.time_and_groups") as caught:
        prepared(tmp_path, rows, Ledger(), group_by="who")
    assert caught.value.facts["split"] == "train" and caught.value.facts["rows"] == 28
    assert len(prepared(tmp_path, rows, Ledger()).frames["train"]) == 28


def test_rows_without_a_time_are_dropped_and_a_wrong_column_is_refused(tmp_path: Path) -> None:
    rows = [chat_row(f"question {i}", day(i)) for i in range(40)]
    ledger = Ledger()
    rows[7]["at"], rows[8]["at"] = "last week", None
    made = prepared(tmp_path, rows, ledger)
    assert dict(ledger.totals()) == {"dropped: no_time": 2, "kept": 38}
    assert 7 not in made.frames["train"]["row"]
    for row in rows[10:]:
        row["at"] = 1_700_000_000_000
    with pytest.raises(TunesmithError, match=r"data.unreadable_times .*of=40"):
        prepared(tmp_path, rows, Ledger())
    with pytest.raises(TunesmithError, match=r"data.missing_time"):
        prepared(tmp_path, rows, Ledger(), time_by="time")


def test_given_test_rows_must_be_newer(tmp_path: Path) -> None:
    def rows(name: str, first: int) -> list[str]:
        return [json.dumps(chat_row(f"{name} {i}", day(first + i))) for i in range(20)]

    for name, first in (("learned", 0), ("newer", 20), ("older", -9)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows(name, first)), "utf-8")
    wished = {"sources": [{"path": "learned.jsonl"}], "split": {"time_by": "at"}}
    spec = DataSpec.model_validate({**wished, "test_sources": [{"path": "newer.jsonl"}]})
    frames = prepare(spec, tmp_path, Ledger()).frames
    assert [len(frames[split]) for split in SPLITS] == [16, 4, 20]  # 0.7 and 0.15 of what is learned from: 16.5
    spec = DataSpec.model_validate({**wished, "test_sources": [{"path": "older.jsonl"}]})
    with pytest.raises(TunesmithError, match=r"data.time_order .*other=test"):
        prepare(spec, tmp_path, Ledger())


@pytest.mark.parametrize("other", [{"fold": {"number": 1, "of": 3}}, {"stratify_by": "class"}])
def test_time_decides_alone(other: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="time_alone"):
        SplitSpec.model_validate({"time_by": "at", **other})
