from __future__ import annotations

import unicodedata
from itertools import combinations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin, SplitName
from tunesmith.data.clean import blank_reason, normalize, normalized
from tunesmith.data.dedup import merge_duplicates
from tunesmith.data.settled import may_change
from tunesmith.data.split import check_leaks, components, split_rows
from tunesmith.data.table import from_examples, to_examples

SHARES: dict[SplitName, float] = {"train": 0.7, "validation": 0.15, "test": 0.15}


def chat(row: int, prompt: str, answer: str = "a", group: str = "") -> Example:
    return Example(row, "chat", Origin("s", row, group), (Message("user", prompt), Message("assistant", answer)))


def frame(*examples: Example) -> pl.DataFrame:
    return from_examples(examples)


def test_normalising_mends_texts_and_counts_rows() -> None:
    rows = frame(
        chat(0, " cafe\u0301\r\nnow\r\x07\ufeff ", "fine 👩\u200d💻\n"),
        chat(1, "untouched\n\tkeeps its tab"),
        Example(2, "preference", Origin("s", 2), (Message("user", "q"),), chosen=(Message("assistant", "x "),),
                rejected=(Message("assistant", "y"),)),
        Example(3, "text", Origin("s", 3), text="\x00words\u0085"),
    )  # fmt: skip
    cleaned, changed = normalize(rows)
    first, second, third, fourth = to_examples(cleaned)
    assert [turn.content for turn in first.messages] == ["café\nnow", "fine 👩\u200d💻"]
    assert second.messages[0].content == "untouched\n\tkeeps its tab"
    assert (third.chosen[0].content, fourth.text) == ("x", "words\n")
    assert changed.to_list() == [0, 2, 3]
    assert normalize(cleaned)[1].is_empty()


def test_marks_that_show_nothing_go_and_joiners_stay_where_a_script_needs_them() -> None:
    persian, flag = "می\u200cخواهم", "🏳\ufe0f\u200d🌈"
    rows = frame(chat(0, "a\u200cb\u200b \u200dc\u00add\u2060 中\u200c文\u200d", persian), chat(1, flag, "क्\u200dष"))
    first, second = to_examples(normalize(rows)[0])
    assert [turn.content for turn in first.messages] == ["ab cd 中文", persian]
    assert [turn.content for turn in second.messages] == [flag, "क्\u200dष"]


def test_rows_with_nothing_left_are_named() -> None:
    pair = Example(4, "preference", Origin("s", 4), (Message("user", "q"),), chosen=(Message("assistant", "same "),),
                   rejected=(Message("assistant", "same"),))  # fmt: skip
    rows = frame(
        chat(0, "q"), chat(1, "\x07"), chat(2, "q", "\x07 "), Example(3, "text", Origin("s", 3), text="\x00 \n"), pair
    )
    found = normalize(rows)[0].select("row", blank_reason()).drop_nulls()
    assert found.rows() == [(1, "empty_prompt"), (2, "empty_answer"), (3, "empty_text"), (4, "same_answers")]


def test_duplicates_are_merged_into_the_first() -> None:
    ledger = Ledger()
    ledger.read("s", 5)
    rows = frame(chat(0, "q"), chat(1, "q", "other"), chat(2, "q"), chat(3, "q "), chat(4, "q"))
    kept = merge_duplicates(rows, ledger)
    assert list(kept["row"]) == [0, 1, 3]
    assert [(e.row, e.amount) for e in ledger.entries() if e.fate == "merged"] == [(2, 0), (4, 0)]
    ledger.check(kept["row"])


def test_words_do_not_run_into_each_other_in_the_content_key() -> None:
    ledger = Ledger()
    ledger.read("s", 2)
    assert len(merge_duplicates(frame(chat(0, "ab", "c"), chat(1, "a", "bc")), ledger)) == 2


def test_a_component_joins_groups_and_prompts() -> None:
    rows = frame(
        chat(0, "one", group="A"),
        chat(1, "Two!", group="A"),
        chat(2, "ｔｗｏ", group="B"),
        chat(3, "three", group="B"),
        chat(4, "three?"),
        chat(5, "four"),
        chat(6, "?"),
        chat(7, "!"),
    )
    joined = components(rows)["component"]
    assert joined[:5].n_unique() == 1
    assert joined.n_unique() == 4


@pytest.mark.parametrize("rows", [3, 4, 7, 20, 50, 333, 2000])
def test_shares_are_close_for_rows_that_stand_alone(rows: int) -> None:
    parts = split_rows(frame(*(chat(row, f"question {row}") for row in range(rows))), SHARES, seed=1)
    assert sum(len(part) for part in parts.values()) == rows
    for split, part in parts.items():
        assert abs(len(part) - SHARES[split] * rows) <= (1 if rows > 4 else 1.6)
        assert len(part) >= 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 60)), min_size=40, max_size=200),
    st.integers(0, 5),
)
def test_nothing_that_belongs_together_parts(pairs: list[tuple[int, int]], seed: int) -> None:
    rows = frame(*(chat(row, f"question {q}", str(row), f"g{g}" if g < 25 else "") for row, (g, q) in enumerate(pairs)))
    try:
        parts = split_rows(rows, SHARES, seed)
    except TunesmithError as error:
        assert error.code == "data.too_few_prompts"
        assert components(rows)["component"].n_unique() < 3
        return
    assert sorted(row for part in parts.values() for row in part["row"]) == list(range(len(pairs)))
    for one, other in combinations(parts.values(), 2):
        assert not set(one["group"]) & set(other["group"]) - {""}
        prompts = [{e.messages[0].content for e in to_examples(part)} for part in (one, other)]
        assert not prompts[0] & prompts[1]
    assert check_leaks(parts) == 0


def test_groups_of_many_sizes_still_give_the_shares() -> None:
    sizes = [60, 30, 25, 20, 10, 10, 8, 8, 8, 5, 5, 5, 5] + [2] * 30 + [1] * 100
    examples: list[Example] = []
    for group, size in enumerate(sizes):
        examples += [chat(len(examples) + i, f"q {group} {i}", group=f"g{group}") for i in range(size)]
    for seed in range(5):
        parts = split_rows(frame(*examples), SHARES, seed)
        for split, part in parts.items():
            assert abs(len(part) / len(examples) - SHARES[split]) < 0.02


def test_more_rows_leave_nearly_every_row_in_its_split() -> None:
    examples = [chat(row, f"question {row}") for row in range(2200)]
    before = split_rows(frame(*examples[:2000]), SHARES, seed=4)
    after = split_rows(frame(*examples), SHARES, seed=4)
    moved = sum(len(set(before[split]["row"]) - set(after[split]["row"])) for split in SHARES)
    assert moved < 0.04 * 2000
    other_seed = split_rows(frame(*examples), SHARES, seed=5)
    assert len(set(after["test"]["row"]) & set(other_seed["test"]["row"])) < 0.3 * len(after["test"])


def test_rows_that_all_belong_together_cannot_be_split() -> None:
    with pytest.raises(TunesmithError, match=r"data.too_few_prompts .*found=1"):
        split_rows(frame(*(chat(row, "same?") for row in range(9))), SHARES, seed=1)


def test_a_leak_is_found() -> None:
    with pytest.raises(TunesmithError, match=r"data.leak .*rows=1"):
        check_leaks({"train": frame(chat(0, "What now?")), "test": frame(chat(1, "what  now"))})
    with pytest.raises(TunesmithError, match=r"data.leak"):
        check_leaks({"validation": frame(chat(0, "x", group="g")), "test": frame(chat(1, "y", group="g"))})


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=8))
@settings(max_examples=150, deadline=None)
def test_texts_that_are_passed_over_would_not_have_changed(texts: list[str]) -> None:
    table = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
    found = table.select("text", flagged=may_change(pl.col("text")), wanted=normalized(pl.col("text")))
    assert found.filter(~pl.col("flagged") & (pl.col("text") != pl.col("wanted"))).is_empty()


def test_every_pair_that_unicode_composes_is_looked_at() -> None:
    decomposed = [
        form
        for code in range(0xA0, 0x30000)
        if not 0xAC10 <= code < 0xD7A0
        and unicodedata.normalize("NFC", form := unicodedata.normalize("NFD", chr(code))) != form
    ]
    assert len(decomposed) > 900
    table = pl.DataFrame({"text": decomposed})
    assert table.select(may_change(pl.col("text")).all()).item()
    settled = pl.DataFrame(
        {"text": ["Plain (K)\n\tline", "今天天气，很好！", "Ünïcode ß", "２３ｋｍ", "日本語のテキスト", "한국어"]}
    )
    assert settled.select(may_change(pl.col("text")).any()).item() is False


def with_class(row: int, name: str) -> Example:
    return Example(row, "text_class", Origin("s", row), text=f"text {row}", labels=(name,))


def test_classes_keep_their_shares() -> None:
    names = ["often"] * 400 + ["seldom"] * 40 + [f"once {i}" for i in range(60)]
    rows = frame(*(with_class(i, name) for i, name in enumerate(names)))
    frames = split_rows(rows, SHARES, 5, stratify=True)
    for name, count in (("often", 400), ("seldom", 40)):
        for split, share in SHARES.items():
            found = frames[split].filter(pl.col("labels").list.contains(name))
            assert abs(len(found) - share * count) <= 2
    once = {
        split: len(part.filter(pl.col("labels").list.first().str.starts_with("once"))) for split, part in frames.items()
    }
    assert sum(once.values()) == 60 and min(once.values()) >= 3, "classes of one row are shared out by chance"
    assert split_rows(rows, SHARES, 5, stratify=True)["test"].equals(frames["test"])


@pytest.mark.parametrize("stratify", [False, True])
def test_every_row_is_tested_in_exactly_one_fold(stratify: bool) -> None:
    rows = frame(*(with_class(i, f"class {i % 3}") for i in range(150)))
    parts = [split_rows(rows, SHARES, 2, stratify=stratify, fold=(number, 5)) for number in range(1, 6)]
    tested = [row for part in parts for row in part["test"]["row"]]
    assert sorted(tested) == list(range(150))
    assert all(abs(len(part["test"]) - 30) <= 3 for part in parts)
    assert all(abs(len(part["validation"]) - 120 * 0.15 / 0.85) <= 4 for part in parts)
    for part in parts:
        assert sorted(row for each in part.values() for row in each["row"]) == list(range(150))
        check_leaks(part)
    with pytest.raises(TunesmithError) as caught:
        split_rows(rows[:4], SHARES, 2, fold=(1, 5))
    assert caught.value.code == "data.too_few_prompts"
