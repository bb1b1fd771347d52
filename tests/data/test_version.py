from __future__ import annotations

import json
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.files import read_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin
from tunesmith.data.prepare import FOLDER, load_tables, prepare, write
from tunesmith.data.table import SCHEMA, from_examples
from tunesmith.data.version import made_by, row_digests, version_of
from tunesmith.recipe.specs.data import DataSpec

TEXT = st.text(max_size=4)
MESSAGE = st.builds(
    Message, st.sampled_from(["user", "assistant"]), TEXT, st.none() | st.sampled_from([0.0, 0.5, 1.0]), name=TEXT
)
EXAMPLE = st.builds(
    Example,
    st.just(0),
    st.sampled_from(["chat", "preference", "text_class"]),
    st.just(Origin("a", 0)),
    st.lists(MESSAGE, max_size=3).map(tuple),
    TEXT,
    TEXT,
    st.lists(MESSAGE, max_size=2).map(tuple),
    st.lists(MESSAGE, max_size=2).map(tuple),
    st.none() | st.booleans(),
    st.lists(TEXT, max_size=3).map(tuple),
    st.lists(TEXT, max_size=3).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(EXAMPLE, EXAMPLE)
def test_two_rows_share_a_hash_exactly_when_they_say_the_same(one: Example, other: Example) -> None:
    first, second = row_digests(from_examples([one, other]))
    assert (first == second) == (one == other)


def chat(number: int, **changed: object) -> Example:
    turns = (Message("user", f"question {number}"), Message("assistant", "yes"))
    return Example(**{"row": number, "kind": "chat", "origin": Origin("a", number), "messages": turns, **changed})  # type: ignore[arg-type]


def test_a_version_knows_rows_and_settings_but_no_order_and_no_origin() -> None:
    rows = [chat(number) for number in range(5)]
    version = version_of({"train": from_examples(rows)}, {})
    moved = [chat(each.row, row=99 - each.row, origin=Origin("elsewhere", 7, "group")) for each in reversed(rows)]
    assert version_of({"train": from_examples(moved)}, {}) == version
    twice = version_of({"train": from_examples([*rows, rows[0]])}, {})
    parted = version_of({"train": from_examples(rows[:3]), "test": from_examples(rows[3:])}, {})
    assert len({version.content, twice.content, parted.content}) == 3
    other = version_of({"train": from_examples(rows)}, {"clean": {"normalize": False}})
    assert other.content == version.content and other.id != version.id


def test_a_version_is_the_same_on_every_machine() -> None:
    """The number stands here so that a change of the hashed text cannot come in unseen."""
    frame = from_examples([chat(1, tools="[]", labels=("a", "b"), label=True), chat(2, text="文本")])
    assert version_of({"train": frame}, {}).id == "60e99e61e13f9d4d409161d746da441f032bb22aaafb4f0c69e29729fcabc44e"


def test_where_files_lie_is_no_setting() -> None:
    one = DataSpec.model_validate({"sources": [{"path": "a.jsonl", "name": "a", "licence": "MIT", "sample": 3}]})
    other = DataSpec.model_validate({"sources": [{"path": "/else/b.jsonl", "sample": 3}]})
    third = DataSpec.model_validate({"sources": [{"path": "a.jsonl", "sample": 4}]})
    assert made_by(one) == made_by(other) != made_by(third)


def test_the_stored_version_is_that_of_the_stored_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number}", "completion": "yes"} for number in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    spec = DataSpec.model_validate({"sources": [{"path": "a.jsonl"}]})
    prepared = prepare(spec, tmp_path, Ledger())
    write(prepared, tmp_path / "run")
    manifest = read_manifest(tmp_path / "run" / FOLDER)
    found = version_of(load_tables(tmp_path / "run"), made_by(spec))
    assert (
        (manifest["version"], manifest["content"]) == (found.id, found.content) == (prepared.version.id, found.content)
    )


def test_a_table_of_an_older_release_is_read(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number}", "completion": "yes"} for number in range(9)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    write(prepare(DataSpec.model_validate({"sources": [{"path": "a.jsonl"}]}), tmp_path, Ledger()), tmp_path)
    for path in (tmp_path / FOLDER).glob("*.parquet"):
        pl.read_parquet(path).drop("parent").write_parquet(path)
    (tmp_path / FOLDER / "manifest.json").unlink()
    from tunesmith.core.files import folder_hashes, write_manifest

    write_manifest(tmp_path / FOLDER, {"files": folder_hashes(tmp_path / FOLDER)})
    assert all(frame.schema == SCHEMA and frame["parent"].is_null().all() for frame in load_tables(tmp_path).values())


def test_a_made_row_keeps_its_parent_through_every_fate_and_the_file(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.read("a", 3)
    assert list(ledger.make([2, 0], "made_by_synonyms")) == [3, 4]
    ledger.decide([3], "truncated", "tokens_behind_max_length", [7])
    ledger.write(tmp_path / "ledger.jsonl")
    loaded = Ledger.load(tmp_path / "ledger.jsonl")
    assert loaded.entries() == ledger.entries()
    found = [(each.source, each.index, each.parent) for each in loaded.entries()]
    made = [("a", 2, 2), ("a", 0, 0)]
    assert found == [("a", 0, None), ("a", 1, None), ("a", 2, None), *made]
    assert (tmp_path / "ledger.jsonl").read_text().count("parent") == 2
