"""Whatever bytes a file holds, a look at it ends with rows that add up or with an error that has a code."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.core.errors import TunesmithError
from tunesmith.data.augment.apply import augmented
from tunesmith.data.augment.thesaurus import load_thesaurus
from tunesmith.data.diff import compare
from tunesmith.data.readable import readable
from tunesmith.data.sides import side_of_file
from tunesmith.data.table import SCHEMA
from tunesmith.recipe.specs.augment import AugmentSpec

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COLUMN = st.sampled_from(["text", "label", "prompt", "completion", "chosen", "rejected", "messages", "tokens", "tags"])
ROW = st.dictionaries(COLUMN, st.text(max_size=9) | JSON, min_size=1, max_size=4)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": st.text(max_size=9)}
    ),
    max_size=4,
)
LINE = ROW.map(json.dumps) | TURNS.map(lambda turns: json.dumps({"messages": turns})) | st.text(max_size=12)


def look(folder: str, name: str, content: bytes) -> object:
    path = Path(folder) / name
    path.write_bytes(content)
    try:
        side, _ = side_of_file(path)
    except TunesmithError as error:
        assert "." in error.code
        return None
    side.ledger.check(row for frame in side.tables.values() for row in frame["row"])
    assert all(frame.schema == SCHEMA for frame in side.tables.values())
    for frame in side.tables.values():
        for row in frame.iter_rows(named=True):
            json.dumps(readable(row))
    return side


@settings(max_examples=120, deadline=None)
@given(st.lists(LINE, max_size=8), st.lists(LINE, max_size=8), st.sampled_from(["a.jsonl", "a.json", "a.csv"]))
def test_fuzzed_files_are_looked_at_and_compared(one: list[str], other: list[str], name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sides = [
            look(folder, f"{place}-{name}", "\n".join(lines).encode("utf-8", "surrogatepass"))
            for place, lines in enumerate((one, other))
        ]
    if None in sides:
        return
    before, after = sides
    found = compare(before, after)  # type: ignore[arg-type]
    rows = [sum(map(len, side.tables.values())) for side in sides]  # type: ignore[union-attr, attr-defined]
    kinds = [change.kind for change in found.changes]
    assert rows[0] == found.same + kinds.count("changed") + kinds.count("removed")
    assert rows[1] == found.same + kinds.count("changed") + kinds.count("added")


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_of_a_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "a.csv", "a.parquet"):
            look(folder, name, content)


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=80) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.text(max_size=40),
)
def test_any_bytes_of_a_dictionary(content: bytes, text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "words.txt").write_bytes(content)
        (folder / "a.jsonl").write_text(json.dumps({"prompt": text, "completion": "yes"}) + "\n", "utf-8")
        try:
            known = load_thesaurus("words.txt", folder)
            side, _ = side_of_file(folder / "a.jsonl")
        except TunesmithError:
            return
        assert all(word == word.lower() and words for word, words in known.synonyms.items())
        frame = side.tables[""]
        if frame.is_empty():
            return
        spec = AugmentSpec.model_validate(
            {"synonyms": {"dictionary": "words.txt", "share": 1.0, "children": 3}, "edit": {}}
        )
        made, _ = augmented(spec, frame, {}, folder, side.ledger)
        side.ledger.check(made["row"])
