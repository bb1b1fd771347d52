from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, RowKind, ToolCall
from tunesmith.data.formats.read import Reading, SourceReport, read_source
from tunesmith.data.table import SCHEMA, from_examples, to_examples
from tunesmith.recipe.specs.data import SourceSpec

TOOL = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
WRAPPED = json.dumps([{"type": "function", "function": TOOL}])


def read(
    folder: Path, rows: object, wanted: RowKind = "chat", group_by: str | None = None, **source: object
) -> tuple[list[Example], Ledger, SourceReport]:
    path = folder / "rows.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
    ledger = Ledger()
    spec = SourceSpec.model_validate({"path": "rows.json", **source})
    frame, report = read_source(spec, "train", folder, Reading(wanted, group_by, 1), ledger)
    assert frame.schema == SCHEMA
    dropped = [entry.row for entry in ledger.entries() if entry.fate == "dropped"]
    assert sorted([*dropped, *frame["row"]]) == list(range(len(ledger)))
    return to_examples(frame), ledger, report


def said(example: Example) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in example.messages]


ASKED = [("user", "q"), ("assistant", "a")]
CHAT_ROWS: list[tuple[str, dict[str, object], list[tuple[str, str]]]] = [
    ("alpaca", {"instruction": "q", "input": "", "output": "a"}, ASKED),
    ("alpaca", {"instruction": "q", "input": "x", "output": "a"}, [("user", "q\nx"), ("assistant", "a")]),
    (
        "alpaca",
        {"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"]]},
        [("system", "s"), ("user", "q0"), ("assistant", "a0"), *ASKED],
    ),
    ("sharegpt", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ASKED),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ]
        },
        [("system", "s"), *ASKED],
    ),
    (
        "sharegpt",
        {"conversation": [{"human": "q0", "assistant": "a0"}, {"human": "q", "assistant": "a"}], "system": "s"},
        [("system", "s"), ("user", "q0"), ("assistant", "a0"), *ASKED],
    ),
    ("messages", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ASKED),
    (
        "messages",
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": "<think>\nt\n</think>\n\na"},
            ]
        },
        [("system", "s"), ("user", "q"), ("assistant", "<think>\nt\n</think>\n\na")],
    ),
    ("prompt_completion", {"prompt": "q", "completion": "a"}, ASKED),
    (
        "prompt_completion",
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        ASKED,
    ),
    (
        "prompt_completion",
        {"prompt": "[1, 2]", "completion": '{"a": 1, "a": 2}'},
        [("user", "[1, 2]"), ("assistant", '{"a": 1, "a": 2}')],
    ),
    ("query_response", {"query": "q", "response": "a"}, ASKED),
    ("query_response", {"question": "q", "answer": "a", "system": "s"}, [("system", "s"), *ASKED]),
    ("query_response", {"title": "t", "ask": "q", "answer": "a"}, ASKED),
    ("query_response", {"编号": "1", "问题": "q", "答案": "a"}, ASKED),
]


@pytest.mark.parametrize(("layout", "row", "expected"), CHAT_ROWS)
def test_chat_layouts_are_told_apart_and_read(
    tmp_path: Path, layout: str, row: dict[str, object], expected: list[tuple[str, str]]
) -> None:
    examples, _, report = read(tmp_path, [row])
    assert report.files[0].layout == layout
    assert said(examples[0]) == expected
    assert examples[0].kind == "chat"


def test_text(tmp_path: Path) -> None:
    examples, _, report = read(tmp_path, [{"text": "words", "id": 3}], "text")
    assert (report.files[0].layout, examples[0].kind, examples[0].text) == ("text", "text", "words")


PROMPT = [{"role": "user", "content": "q"}]
GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}
PAIRS: list[dict[str, object]] = [
    {"prompt": "q", "chosen": "good", "rejected": "bad"},
    {"prompt": PROMPT, "chosen": "good", "rejected": "bad"},
    {"prompt": PROMPT, "chosen": [GOOD], "rejected": [BAD]},
    {"prompt": "q", "chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]},
    {"chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]},
    {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
    {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    {"messages": [*PROMPT, GOOD], "rejected_response": "bad"},
    {"messages": [*PROMPT, GOOD], "rejected_messages": [BAD]},
    {"input": {"messages": PROMPT}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
]


@pytest.mark.parametrize("row", PAIRS)
def test_preference_layouts(tmp_path: Path, row: dict[str, object]) -> None:
    examples, ledger, report = read(tmp_path, [row], "preference")
    assert report.files[0].layout == "preference"
    assert len(examples) == 1, ledger.totals()
    assert said(examples[0]) == [("user", "q")]
    assert [turn.content for turn in examples[0].chosen] == ["good"]
    assert [turn.content for turn in examples[0].rejected] == ["bad"]


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"prompt": "q", "completion": "a", "label": True}, True),
        ({"prompt": PROMPT, "completion": [{"role": "assistant", "content": "a"}], "label": False}, False),
        ({"messages": [*PROMPT, {"role": "assistant", "content": "a"}], "label": 0}, False),
        ({"messages": [*PROMPT, {"role": "assistant", "content": "a"}], "kto_tag": True}, True),
        ({"instruction": "q", "output": "a", "kto_tag": "false"}, False),
        ({"question": "q", "answer": "a", "label": "1"}, True),
    ],
)
def test_kto_layouts(tmp_path: Path, row: dict[str, object], label: bool) -> None:
    examples, _, report = read(tmp_path, [row], "kto")
    assert report.files[0].layout == "kto"
    assert said(examples[0]) == ASKED
    assert examples[0].label is label


@pytest.mark.parametrize("arguments", [{"zone": "东八区"}, '{"zone": "东八区"}'])
def test_tool_calls_of_the_messages_layout(tmp_path: Path, arguments: object) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "clock", "arguments": arguments}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "12:00", "tool_call_id": "c1", "name": "clock"},
        {"role": "assistant", "content": "noon"},
    ]
    examples, _, _ = read(tmp_path, [{"messages": turns, "tools": [TOOL]}])
    _, asked, answered, last = examples[0].messages
    assert asked == Message("assistant", "", tool_calls=(ToolCall("clock", '{"zone": "东八区"}', "c1"),))
    assert answered == Message("tool", "12:00", name="clock", tool_call_id="c1")
    assert last.content == "noon"
    assert examples[0].tools == WRAPPED


def test_tool_calls_of_sharegpt(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": json.dumps({"name": "clock", "arguments": {"zone": 8}})},
        {"from": "observation", "value": "12:00"},
        {"from": "gpt", "value": "noon"},
    ]
    examples, _, _ = read(tmp_path, [{"conversations": turns, "tools": json.dumps([TOOL])}])
    assert [turn.role for turn in examples[0].messages] == ["user", "assistant", "tool", "assistant"]
    assert examples[0].messages[1].tool_calls == (ToolCall("clock", '{"zone": 8}'),)
    assert examples[0].tools == WRAPPED


@pytest.mark.parametrize(
    ("stated", "weight"),
    [({"weight": 0.5}, 0.5), ({"train": False}, 0.0), ({"loss": True}, 1.0), ({"loss": None}, None), ({}, None)],
)
def test_weights_of_turns(tmp_path: Path, stated: dict[str, object], weight: float | None) -> None:
    turns = [*PROMPT, {"role": "assistant", "content": "a", **stated}]
    examples, _, _ = read(tmp_path, [{"messages": turns}])
    assert [turn.weight for turn in examples[0].messages] == [None, weight]


U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("unknown_role", {"messages": [U, {"role": "alien", "content": "a"}]}),
        ("unknown_role", {"messages": [U, {"content": "a"}]}),
        ("content_not_text", {"messages": [U, {"role": "assistant", "content": 7}]}),
        ("content_not_text", {"messages": [U, {"role": "assistant", "content": [{"type": "image_url"}]}]}),
        ("no_messages", {"messages": "hello"}),
        ("no_messages", {"messages": []}),
        ("no_messages", {"messages": ["hello"]}),
        ("missing_columns", {"other": 1}),
        ("no_assistant", {"messages": [U]}),
        ("assistant_first", {"messages": [A, U, A]}),
        ("same_role_twice", {"messages": [U, U, A]}),
        ("empty_answer", {"messages": [U, {"role": "assistant", "content": "  "}]}),
        ("empty_prompt", {"messages": [{"role": "user", "content": ""}, A]}),
        ("bad_weight", {"messages": [U, {**A, "weight": 7}]}),
        ("bad_weight", {"messages": [U, {**A, "weight": 1, "train": False}]}),
        ("bad_tool_call", {"messages": [U, {**A, "tool_calls": [{"function": "x"}]}]}),
        ("bad_tool_call", {"messages": [{**U, "tool_calls": [{"name": "x"}]}, A]}),
        ("bad_tools", {"messages": [U, A], "tools": "[3]"}),
        ("duplicate_key", {"messages": '[{"role": "user", "role": "assistant", "content": "q"}]'}),
        ("duplicate_key", {"messages": [U, A], "tools": '[{"name": "f", "name": "g"}]'}),
        ("lone_surrogate", {"messages": [{"role": "user", "content": "\ud800"}, A]}),
    ],
)
def test_defects_of_rows(tmp_path: Path, reason: str, row: dict[str, object]) -> None:
    examples, ledger, _ = read(tmp_path, [{"messages": [U, A]}, row])
    assert len(examples) == 1
    assert [(entry.fate, entry.reason) for entry in ledger.entries()] == [("kept", ""), ("dropped", reason)]


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("same_answers", {"prompt": "q", "chosen": "a", "rejected": "a"}),
        ("empty_answer", {"prompt": "q", "chosen": "a", "rejected": ""}),
        ("empty_prompt", {"prompt": None, "chosen": "a", "rejected": "b"}),
        ("bad_history", {"instruction": "q", "chosen": "a", "rejected": "b", "history": [["only one"]]}),
    ],
)
def test_defects_of_pairs(tmp_path: Path, reason: str, row: dict[str, object]) -> None:
    _, ledger, _ = read(tmp_path, [{"prompt": "q", "chosen": "a", "rejected": "b"}, row], "preference")
    assert ledger.entries()[1].reason == reason


def test_a_label_that_is_no_label(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": each} for each in (True, "maybe", 3)]
    _, ledger, _ = read(tmp_path, rows, "kto")
    assert [entry.reason for entry in ledger.entries()] == ["", "bad_label", "bad_label"]


def test_trailing_turns_are_cut_and_counted(tmp_path: Path) -> None:
    examples, ledger, _ = read(tmp_path, [{"messages": [U, A, U]}])
    assert said(examples[0]) == ASKED
    assert (ledger.entries()[0].fate, ledger.entries()[0].amount) == ("truncated", 1)


def test_columns_and_layout_of_the_recipe(tmp_path: Path) -> None:
    rows = [{"frage": "q", "antwort": "a", "kunde": "k1"}]
    columns = {"query": "frage", "response": "antwort"}
    examples, _, report = read(tmp_path, rows, group_by="kunde", columns=columns)
    assert said(examples[0]) == ASKED
    assert (report.files[0].layout, examples[0].origin.group) == ("query_response", "k1")
    with pytest.raises(TunesmithError, match=r"data.missing_columns .*fehlt"):
        read(tmp_path, rows, columns={"query": "fehlt"})
    with pytest.raises(TunesmithError, match=r"data.missing_columns"):
        read(tmp_path, rows, layout="alpaca")


def test_files_of_the_wrong_kind_and_mixed_files(tmp_path: Path) -> None:
    with pytest.raises(TunesmithError, match=r"data.wrong_kind"):
        read(tmp_path, [{"messages": [U, A], "label": False}])
    with pytest.raises(TunesmithError, match=r"data.mixed_layouts .*other_place=3"):
        read(tmp_path, [{"messages": [U, A]}, {"x": 1}, {"instruction": "q", "output": "a"}])
    with pytest.raises(TunesmithError, match=r"data.unknown_layout .*columns=x, y"):
        read(tmp_path, [{"x": 1}, {"y": 2}])
    examples, _, _ = read(tmp_path, [{"messages": [U, A], "label": "billing"}])
    assert len(examples) == 1  # a class is no like


def test_hidden_files_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "rows" / ".later").mkdir(parents=True)
    for name in ("a.jsonl", ".b.jsonl", ".later/c.jsonl", ".DS_Store"):
        (tmp_path / "rows" / name).write_text('{"query": "q", "response": "a"}\n')
    source = SourceSpec.model_validate({"path": "rows"})
    frame, report = read_source(source, "train", tmp_path, Reading("chat", None, 1), Ledger())
    assert len(frame) == 1
    hidden = [note.facts["path"] for note in report.notes if note.code == "data.hidden"]
    assert hidden == ["rows/.b.jsonl", "rows/.later/c.jsonl"]


def test_examples_survive_the_table() -> None:
    from tunesmith.core.types import Origin

    calls = (ToolCall("clock", '{"a": "é"}', "1"),)
    turns = (Message("user", "q", 0.0), Message("assistant", "", None, calls), Message("tool", "r", None, (), "n", "1"))
    examples = [
        Example(4, "chat", Origin("s", 2, "g"), turns, WRAPPED),
        Example(5, "kto", Origin("s", 3), turns[:1], label=False),
        Example(6, "preference", Origin("s", 4), turns[:1], chosen=turns[1:2], rejected=turns[2:]),
        Example(7, "text", Origin("s", 5), text="words"),
    ]
    assert to_examples(from_examples(examples)) == examples
