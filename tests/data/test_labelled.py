"""Rows with classes: every form that is read, what it becomes, and the reason of every row that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, RowKind
from tunesmith.data.formats.labelled import word_places
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.prepare import prepare
from tunesmith.data.table import to_examples
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.data import DataSpec, Layout, SourceSpec


def read(path: Path, wanted: RowKind, **source: object) -> tuple[list[Example], dict[str, int]]:
    """The rows of a file as examples, and the fates of all."""
    ledger = Ledger()
    spec = SourceSpec.model_validate({"path": path.name, **source})
    frame, _ = read_source(spec, "train", path.parent, Reading(wanted, None, 1), ledger)
    return to_examples(frame), dict(ledger.totals())


def read_rows(folder: Path, wanted: RowKind, *rows: object, **source: object) -> tuple[list[Example], dict[str, int]]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return read(path, wanted, **source)


# ------------------------------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    ("row", "text", "labels"),
    [
        ({"text": "a b", "label": "x"}, "a b", ("x",)),
        ({"sentence": "a", "category": " x y "}, "a", ("x y",)),
        ({"review": "很好 🙂", "sentiment": "正面"}, "很好 🙂", ("正面",)),
        ({"文本": "很好", "标签": "正面"}, "很好", ("正面",)),
        ({"query": "q", "intent": "card_lost"}, "q", ("card_lost",)),
        ({"text": "a", "label": 3}, "a", ("3",)),
        ({"text": "a", "label": 3.0}, "a", ("3",)),
        ({"text": "a", "label": True}, "a", ("True",)),
        ({"text": "a", "labels": ["x"]}, "a", ("x",)),
        ({"text": "a", "labels": ["x", "y", "x"]}, "a", ("x", "y")),
        ({"text": "a", "labels": []}, "a", ()),
        ({"text": "a", "labels": '["x", "y"]'}, "a", ("x", "y")),
        ({"text": "a", "label": "[x"}, "a", ("[x",)),
    ],
)
def test_a_text_and_its_labels(row: dict[str, object], text: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    (example,), fates = read_rows(tmp_path, "text_class", row)
    assert (example.kind, example.text, example.labels, fates) == ("text_class", text, labels, {"kept": 1})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"label": "x"}, "missing_columns"),
        ({"text": "a"}, "missing_columns"),
        ({"text": 5, "label": "x"}, "content_not_text"),
        ({"text": " \n", "label": "x"}, "empty_text"),
        ({"text": "a", "label": None}, "empty_label"),
        ({"text": "a", "label": "  "}, "empty_label"),
        ({"text": "a", "label": {"name": "x"}}, "bad_labels"),
        ({"text": "a", "label": 2.5}, "bad_labels"),
        ({"text": "a", "labels": ["x", ["y"]]}, "bad_labels"),
        ({"text": "a\ud800", "label": "x"}, "lone_surrogate"),
    ],
)
def test_texts_that_cannot_be_learned(row: dict[str, object], reason: str, tmp_path: Path) -> None:
    good = {"text": "good", "label": "x"}
    examples, fates = read_rows(tmp_path, "text_class", good, row, layout="text_class")
    assert [each.text for each in examples] == ["good"]
    assert fates == {"kept": 1, f"dropped: {reason}": 1}


def test_a_table_of_chinese_labels_in_gb18030(tmp_path: Path) -> None:
    lines = ["text,label", *(f"这家酒店的服务很好，房间也干净{n}号🙂,正面" for n in range(5)), '"位置,太远",负面']
    (tmp_path / "reviews.csv").write_bytes("\r\n".join(lines).encode("gb18030"))
    examples, _ = read(tmp_path / "reviews.csv", "text_class")
    assert {label for each in examples for label in each.labels} == {"正面", "负面"}
    assert examples[0].text == "这家酒店的服务很好，房间也干净0号🙂" and examples[-1].text == "位置,太远"


def test_a_parquet_file_of_lists(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"text": ["a", "b"], "labels": [["x", "y"], []]}, schema_overrides={"labels": pl.List(pl.String)}
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    examples, _ = read(tmp_path / "rows.parquet", "text_class")
    assert [each.labels for each in examples] == [("x", "y"), ()]
    pl.DataFrame({"tokens": [["a", "b"]], "ner_tags": [["O", "S-x"]]}).write_parquet(tmp_path / "tokens.parquet")
    (example,), _ = read(tmp_path / "tokens.parquet", "token_class")
    assert (example.tokens, example.labels) == (("a", "b"), ("O", "S-x"))


def test_columns_of_other_names(tmp_path: Path) -> None:
    columns = {"text": "Nachricht", "label": "Anliegen"}
    (example,), _ = read_rows(tmp_path, "text_class", {"Nachricht": "a", "Anliegen": "x"}, columns=columns)
    assert (example.text, example.labels) == ("a", ("x",))


# ----------------------------------------------------------------------------------------- tokens

CITY = ("O", "O", "B-place", "I-place")


@pytest.mark.parametrize(
    ("row", "tokens", "tags"),
    [
        ({"tokens": ["go", "to", "New", "York"], "tags": list(CITY)}, ("go", "to", "New", "York"), CITY),
        ({"words": "go to New York", "ner_tags": " ".join(CITY)}, ("go", "to", "New", "York"), CITY),
        ({"tokens": '["a b", "c"]', "labels": '["S-x", "O"]'}, ("a b", "c"), ("S-x", "O")),
        ({"tokens": ["杭", "州"], "bio": ["B-地点", "E-地点"]}, ("杭", "州"), ("B-地点", "E-地点")),
        (
            {"text": "go to New York", "entities": [{"start": 6, "end": 14, "label": "place"}]},
            ("go", "to", "New", "York"), CITY,
        ),
        (
            {"text": "寄到杭州🙂", "spans": [[2, 4, "地点"]]},
            tuple("寄到杭州🙂"), ("O", "O", "B-地点", "I-地点", "O"),
        ),
        (
            {"text": "Ann met Bob", "entities": [[8, 11, "person name"], [0, 3, "person name"]]},
            ("Ann", "met", "Bob"), ("B-person_name", "O", "B-person_name"),
        ),
        ({"text": "x-ray", "entities": []}, ("x", "-", "ray"), ("O", "O", "O")),
        (
            {"text": "a b", "entities": '[{"start": 0, "end": 1, "type": "t"}]'},
            ("a", "b"), ("B-t", "O"),
        ),
    ],
)  # fmt: skip
def test_tokens_and_their_tags(
    row: dict[str, object], tokens: tuple[str, ...], tags: tuple[str, ...], tmp_path: Path
) -> None:
    (example,), fates = read_rows(tmp_path, "token_class", row)
    assert (example.kind, example.tokens, example.labels, fates) == ("token_class", tokens, tags, {"kept": 1})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"tokens": ["a"]}, "missing_columns"),
        ({"text": "a"}, "missing_columns"),
        ({"tokens": [], "tags": []}, "bad_tokens"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "bad_tokens"),
        ({"tokens": ["a", 1], "tags": ["O", "O"]}, "bad_tokens"),
        ({"tokens": {"a": 1}, "tags": ["O"]}, "bad_tokens"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "bad_tags"),
        ({"tokens": ["a"], "tags": ["X-place"]}, "bad_tags"),
        ({"tokens": ["a"], "tags": ["B-"]}, "bad_tags"),
        ({"tokens": ["a"], "tags": [0]}, "bad_tags"),
        ({"text": "a b", "entities": "none"}, "bad_entities"),
        ({"text": "a b", "entities": [{"start": 0, "end": 9, "label": "x"}]}, "bad_entities"),
        ({"text": "a b", "entities": [{"start": 1, "end": 1, "label": "x"}]}, "bad_entities"),
        ({"text": "a b", "entities": [{"start": 0, "end": 1}]}, "bad_entities"),
        ({"text": "a b", "entities": [[0, 1]]}, "bad_entities"),
        ({"text": "a b", "entities": [[0, 3, "x"], [2, 3, "y"]]}, "bad_entities"),
        ({"text": "lamps", "entities": [[0, 4, "x"]]}, "entity_inside_word"),
        ({"text": "a  b", "entities": [[1, 3, "x"]]}, "entity_inside_word"),
        ({"text": "", "entities": []}, "empty_text"),
    ],
)
def test_tokens_that_cannot_be_learned(row: dict[str, object], reason: str, tmp_path: Path) -> None:
    good = {"tokens": ["good"], "tags": ["O"]}
    examples, fates = read_rows(tmp_path, "token_class", good, row, layout="token_class")
    assert [each.tokens for each in examples] == [("good",)]
    assert fates == {"kept": 1, f"dropped: {reason}": 1}


@pytest.mark.parametrize("name", ["rows.conll", "rows.bio"])
def test_sentences_of_a_conll_file(name: str, tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-org\nrejects VBZ B-VP O\n\n\n\n杭 B-地点\n州 I-地点\n🙂 O"
    (tmp_path / name).write_text(text.replace("\n", "\r\n"), "utf-8")
    examples, _ = read(tmp_path / name, "token_class")
    assert [each.tokens for each in examples] == [("EU", "rejects"), ("杭", "州", "🙂")]
    assert [each.labels for each in examples] == [("B-org", "O"), ("B-地点", "I-地点", "O")]


def test_a_full_width_blank_is_a_token_of_a_conll_file(tmp_path: Path) -> None:
    (tmp_path / "rows.conll").write_text("杭 B-地点\n\u3000 O\n\u2028\tO\n \t\n \u00a0  O \n", "utf-8")
    examples, fates = read(tmp_path / "rows.conll", "token_class")
    assert [each.tokens for each in examples] == [("杭", "\u3000", "\u2028"), ("\u00a0",)] and fates == {"kept": 2}
    assert [each.labels for each in examples] == [("B-地点", "O", "O"), ("O",)]


def test_a_conll_line_without_a_tag_drops_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "rows.conll").write_text("a O\nb\n\nc O\n", "utf-8")
    examples, fates = read(tmp_path / "rows.conll", "token_class")
    assert [each.tokens for each in examples] == [("c",)] and fates == {"kept": 1, "dropped: bad_tags": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't 3.5%", ["don", "'", "t", "3", ".", "5", "%"]),
        ("Ålesund_x", ["Ålesund", "_", "x"]),
        ("ภาษา", list("ภาษา")),
        ("한국 A1", ["한", "국", "A1"]),
        (" \t\n", []),
        ("a\u00a0b", ["a", "b"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert [text[first:last] for first, last in word_places(text)] == words


# ------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize("kind", ["text_class", "multi_label", "token_class"])
def test_every_row_has_a_fate_and_none_stands_in_two_splits(kind: str, tmp_path: Path) -> None:
    if kind == "token_class":
        rows: list[dict[str, object]] = [{"tokens": ["word", str(n)], "tags": ["O", "S-number"]} for n in range(40)]
    else:
        rows = [{"text": f"word {n}", "label": str(n % 3)} for n in range(40)]
    rows += rows[:3]  # the same again
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    ledger = Ledger()
    task = "token_class" if kind == "token_class" else "text_class"
    spec = DataSpec.model_validate({"task": task, "rows": kind, "sources": [{"path": "rows.jsonl"}]})
    prepared = prepare(spec, tmp_path, ledger)
    assert dict(ledger.totals()) == {"kept": 40, "merged: exact_duplicate_of_row": 3}
    asked = [[each.text or each.tokens for each in to_examples(part)] for part in prepared.frames.values()]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 40 and all(asked)


def adapting(**source: object) -> StageSpec:
    """A stage that adapts to the texts of a source."""
    return StageSpec.model_validate(
        {"name": "s", "objective": {"kind": "adversarial", "reversal": {}, "target_sources": [source]}}
    )


def test_of_a_target_domain_the_texts_alone_are_read(tmp_path: Path) -> None:
    labelled = [{"text": f"word {n}", "label": str(n % 3)} for n in range(40)]
    others: list[dict[str, object]] = [
        {"text": "plain"},
        {"sentence": "of another name", "label": 3.5},
        {"text": "Word 3!", "label": "2"},
        {"text": ["no text"]},
        {"label": "1"},
        {"text": "plain", "label": "9"},
    ]
    for name, rows in (("rows", labelled), ("test", labelled[3:4]), ("target", others)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sources = {"sources": [{"path": "rows.jsonl"}], "test_sources": [{"path": "test.jsonl"}]}
    spec = DataSpec.model_validate({"task": "text_class", **sources})
    ledger = Ledger()
    prepared = prepare(spec, tmp_path, ledger, [adapting(path="target.jsonl")])
    examples = to_examples(prepared.tables["s-target"])
    assert [each.text for each in examples] == ["plain", "of another name"]
    assert all(each.labels == () and each.kind == "text_class" for each in examples)
    fates = {entry.row: entry for entry in ledger.entries() if entry.source == "target.jsonl"}
    assert len(fates) == 6
    assert ledger.totals()["dropped: prompt_also_in_test"] == 2, "one of the source, one of the target"
    assert ledger.totals()["dropped: content_not_text"] == ledger.totals()["dropped: missing_columns"] == 1


@pytest.mark.parametrize("layout", ["messages", "preference"])
def test_texts_of_a_target_domain_are_not_read_from_conversations(layout: Layout, tmp_path: Path) -> None:
    rows = [{"text": f"word {n}", "label": str(n % 3)} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    spec = DataSpec.model_validate({"task": "text_class", "sources": [{"path": "rows.jsonl"}]})
    with pytest.raises(TunesmithError, match="wrong_kind"):
        prepare(spec, tmp_path, Ledger(), [adapting(path="rows.jsonl", layout=layout)])
