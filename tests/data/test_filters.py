"""Filters: rows that a rule is against go by its name, and honest rows stay."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin, ToolCall
from tunesmith.data.filters import filter_rows, repeated_share
from tunesmith.data.prepare import prepare
from tunesmith.data.table import from_examples
from tunesmith.recipe.specs.clean import FilterRule, FilterSpec
from tunesmith.recipe.specs.data import DataSpec

HONEST = [
    ("What is 2 + 2?", "4 is the answer."),
    ("写一个函数", "```python\ndef f(x):\n    return {{'a': x}}  # TODO later\n```"),
    ("JSON, please", '{"a": [1, 2, 3], "b": {"c": "d"}, "e": null, "f": "https://example.org/x?y=z&a=b"}'),
    ("公式？", "$\\frac{{a}}{{b}} + \\sqrt{x^2+y^2} = \\int_0^\\infty e^{-t}dt$ 即为所求。"),
    ("List three fruits.", "- apples\n- pears\n- plums"),
    ("介绍一下广告法。", "广告法规定，广告不得含有虚假内容。限时优惠也须如实标明。"),
    ("Can you fly?", "I can't fly, but I can explain how birds do it."),
    ("这家酒店怎么样？", "位置很好，出门就是地铁站。房间不大，但很干净，服务员态度也好，下次还会来。😀"),
]


def chat(row: int, prompt: str, answer: str, **more: object) -> Example:
    return Example(row, "chat", Origin("s", row), (Message("user", prompt), Message("assistant", answer, **more)))  # type: ignore[arg-type]


def reasons(rows: list[Example], *rules: FilterRule, **limits: object) -> list[str]:
    ledger = Ledger()
    ledger.read("s", len(rows))
    spec = FilterSpec.model_validate({"rules": list(rules), **limits})
    kept = filter_rows(
        from_examples(rows), spec, ledger, lambda examples: [len(each.messages[1].content) for each in examples]
    )
    ledger.check(kept["row"])
    return [entry.reason for entry in ledger.entries()]


@pytest.mark.parametrize(
    ("rule", "answer", "reason"),
    [
        ("broken_encoding", "价格\ufffd\ufffd元", "broken_encoding"),
        ("broken_encoding", "锟斤拷", "broken_encoding"),
        ("gibberish", "ojvmql$wbi|@pdp}nvhw}6alf|hbxy1&mpq4zd^k}fk|42g$#*o<c<ikw3>@", "gibberish"),
        ("gibberish", "sdfghj klqwrtz pxcvbnm dfghjkl wrtzpsd fghjklx cvbnmqw rtzpsdf ghjk", "gibberish"),
        ("repetition", "总的来说还可以。" * 20, "repetition"),
        ("advertising", "限时秒杀！全场3折，点击 http://ad.example.com 立即抢购！！！", "advertising"),
        ("advertising", "Earn $90 a day from home, no experience!!! Join http://ad.example.com", "advertising"),
        ("too_short", "ok", "too_short"),
        ("too_short", "...!?", "too_short"),
        ("too_long", "很长" * 20_000, "too_long"),
        ("truncated", "The hotel lies near the station. It has rooms with a view of the", "truncated_text"),
        ("truncated", "首先打开盖子，然后把", "truncated_text"),
        ("language", "Der Hund und die Katze sind nicht auf dem Dach, sondern mit der Maus in dem Haus und das ist "
            "ein Problem für "
                     "den Mann von nebenan.", "other_language"),
        ("language", "これは日本語の文章です。とても長いです。", "other_language"),
        ("refusal", "As an AI language model, I cannot do that.", "refusal"),
        ("refusal", "抱歉，作为一个人工智能语言模型，我无法完成这个请求。", "refusal"),
        ("placeholder", "你好，我是 {{name}}，由 {{author}} 开发。", "placeholder_left"),
        ("placeholder", "Dear [insert name here], hello.", "placeholder_left"),
        ("placeholder", "N/A", "empty_answer"),
    ],
)  # fmt: skip
def test_a_rule_names_its_rows(rule: FilterRule, answer: str, reason: str) -> None:
    honest = [chat(place, *pair) for place, pair in enumerate(HONEST)]
    found = reasons([*honest, chat(len(honest), "A question?", answer)], rule, min_characters=3)
    assert found == [""] * len(honest) + [reason]


def test_an_answer_that_calls_a_function_says_enough() -> None:
    calls = (ToolCall("f", "{}"),)
    assert reasons([chat(0, "q", "", tool_calls=calls), chat(1, "q", "")], "too_short", "truncated") == [
        "",
        "too_short",
    ]


def test_of_answers_that_contradict_each_other_the_one_from_elsewhere_goes() -> None:
    rows = [
        chat(0, "Capital of Peru?", "Lima is the capital."), chat(1, "Capital of Peru?", "A hammer drives nails."),
        chat(2, "What is a hammer for?", "A hammer drives nails."), chat(3, "Colour?", "red"), chat(4, "colour",
        "blue"),
        chat(5, "Twice?", "yes"), chat(6, "Twice?", "yes"),
    ]  # fmt: skip
    conflict = "conflicting_answers"
    assert reasons(rows, "conflicting_answers") == ["", conflict, "", conflict, conflict, "", ""]


def test_tokens_are_counted_by_the_model_or_the_setting_is_refused() -> None:
    rows = [chat(0, "q", "short"), chat(1, "q", "a much longer answer")]
    assert reasons(rows, "too_long", max_tokens=10) == ["", "too_long"]
    with pytest.raises(TunesmithError) as error:
        filter_rows(from_examples(rows), FilterSpec(rules=["too_long"], max_tokens=10), Ledger(), None)
    assert error.value.code == "data.nobody_counts_tokens"


def test_share_of_repeated_pieces() -> None:
    assert repeated_share("abcdefghij" * 10) == 1 - 10 / 91
    assert repeated_share("short " * 3) == 0.0
    assert (
        repeated_share(
            "The quick brown fox jumps over the lazy dog while seven wizards quietly box up five dozen jugs."
        )
        == 0
    )


NAMES = {
    "answer_truncated": "dropped: truncated_text", "conflicting_answer": "dropped: conflicting_answers",
    "content_not_text": "dropped: content_not_text", "empty_answer": "dropped: empty_answer",
    "exact_duplicate": "merged: exact_duplicate_of_row", "invalid_json": "dropped: broken_json",
    "missing_messages": "dropped: missing_columns", "no_assistant": "dropped: no_assistant",
    "placeholder_left": "dropped: placeholder_left", "refusal": "dropped: refusal",
    "starts_with_assistant": "dropped: assistant_first", "too_long": "dropped: too_long",
    "two_users_in_a_row": "dropped: same_role_twice", "unknown_role": "role_renamed",
}  # fmt: skip
"""Fault kinds of sft_broken and what the ledger calls them."""


def test_fourteen_of_fourteen_fault_kinds_are_reported_by_name(shared_data: Path) -> None:
    folder = shared_data / "dirty-text"
    truth = [json.loads(line) for line in (folder / "sft_broken_truth.jsonl").read_text("utf-8").strip().split("\n")]
    rules = ["truncated", "conflicting_answers", "placeholder", "refusal", "too_long", "gibberish", "repetition"]
    spec = DataSpec.model_validate(
        {"sources": [{"path": "sft_broken.jsonl", "layout": "messages"}], "clean": {"filter": {"rules": rules}}}
    )
    ledger = Ledger()
    prepare(spec, folder, ledger)
    named, whole, lost = Counter[str](), Counter[str](), Counter[str]()
    for stated, entry in zip(truth, ledger.entries(), strict=True):
        called = {f"{entry.fate}: {entry.reason}", *entry.changes}
        problem = stated["problem"]
        whole[str(problem)] += 1
        if problem is None:
            lost[f"{entry.fate}: {entry.reason}"] += entry.fate == "dropped"
        else:
            named[problem] += NAMES[problem] in called
    missed = {problem: whole[problem] - named[problem] for problem in NAMES}
    print(missed, lost)
    assert all(named[problem] > 0 for problem in NAMES)
