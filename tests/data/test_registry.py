from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, RowKind
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.table import to_examples
from tunesmith.recipe.specs.data import SourceSpec


def read(folder: Path, row: object, entry: object, wanted: RowKind = "chat") -> list[Example]:
    (folder / "rows.json").write_text(json.dumps([row]), encoding="utf-8")
    (folder / "dataset_info.json").write_text(
        json.dumps({"other": {"hf_hub_url": "x"}, "mine": entry}), encoding="utf-8"
    )
    spec = SourceSpec(path="rows.json")
    return to_examples(read_source(spec, "train", folder, Reading(wanted, None, 1), Ledger())[0])


def said(example: Example) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in example.messages]


def test_alpaca_columns(tmp_path: Path) -> None:
    columns = {"prompt": "q", "query": "more", "response": "a", "system": "s"}
    row = {"q": "1", "more": "2", "a": "3", "s": "4", "instruction": "not this"}
    (example,) = read(tmp_path, row, {"file_name": "rows.json", "columns": columns})
    assert said(example) == [("system", "4"), ("user", "1\n2"), ("assistant", "3")]


def test_sharegpt_tags(tmp_path: Path) -> None:
    tags = {"role_tag": "who", "content_tag": "what", "user_tag": "kunde", "assistant_tag": "wir"}
    row = {"talk": [{"who": "kunde", "what": "1"}, {"who": "wir", "what": "2"}]}
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "talk"}, "tags": tags}
    (example,) = read(tmp_path, row, entry)
    assert said(example) == [("user", "1"), ("assistant", "2")]


def test_ranking(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": "human", "value": "1"}],
        "good": {"from": "gpt", "value": "2"},
        "bad": {"from": "gpt", "value": "3"},
    }
    columns = {"messages": "conversations", "chosen": "good", "rejected": "bad"}
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    (example,) = read(tmp_path, row, entry, "preference")
    assert [example.chosen[0].content, example.rejected[0].content] == ["2", "3"]
    flat = {"instruction": "1", "input": "", "good": "2", "bad": "3"}
    entry = {"file_name": "rows.json", "ranking": True, "columns": {"chosen": "good", "rejected": "bad"}}
    (example,) = read(tmp_path, flat, entry, "preference")
    assert [example.chosen[0].content, example.rejected[0].content] == ["2", "3"]


def test_kto_and_text(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], "label": True}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "kto_tag": "label"}
    entry = {"file_name": "rows.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    (example,) = read(tmp_path, row, entry, "kto")
    assert example.label is True
    (example,) = read(tmp_path, {"body": "x"}, {"file_name": "rows.json", "columns": {"prompt": "body"}}, "text")
    assert example.text == "x"


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"formatting": "chatml"}, "formatting"),
        ({"ranking": "yes"}, "ranking"),
        ({"ranking": True}, "columns.chosen"),
        ({"columns": {"promt": "q"}}, "columns.promt"),
        ({"columns": {"images": "pictures"}}, "columns.images"),
        ({"columns": ["q"]}, "columns"),
        ({"tags": {"role": "x"}}, "tags.role"),
        ({"colums": {}}, "colums"),
    ],
)
def test_a_wrong_entry_is_a_code(tmp_path: Path, entry: dict[str, object], what: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        read(tmp_path, {"instruction": "1", "output": "2"}, {"file_name": "rows.json", **entry})
    assert caught.value.code == "data.registry_wrong"
    assert str(caught.value.facts["what"]).startswith(what)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    entry = {"file_name": "rows.json", "columns": {"prompt": "gone"}}
    with pytest.raises(TunesmithError, match=r"data.missing_columns .*gone"):
        read(tmp_path, {"instruction": "1", "output": "2"}, entry)


def test_registers_of_other_tools_and_broken_ones(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"instruction": "1", "output": "2"}]')
    register = tmp_path / "dataset_info.json"
    reading = Reading("chat", None, 1)
    register.write_text('{"features": {"text": {"dtype": "string"}}, "splits": {"train": {"name": "train"}}}')
    frame, _ = read_source(SourceSpec(path="rows.json"), "train", tmp_path, reading, Ledger())
    assert len(frame) == 1
    register.write_text("{")
    with pytest.raises(TunesmithError, match=r"data.registry_wrong"):
        read_source(SourceSpec(path="rows.json"), "train", tmp_path, reading, Ledger())
