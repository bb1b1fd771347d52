from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.defects import Reason
from tunesmith.data.formats import fits
from tunesmith.data.formats.files import Unread, list_files, read_file
from tunesmith.data.prepare import prepare, read_and_clean
from tunesmith.recipe.specs.data import DataSpec, SourceSpec

ROWS = [{"query": "你好，请问几点了？", "response": "现在是中午十二点。"}, {"query": "b", "response": 'c, "d"\ne'}]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def as_csv(separator: str) -> str:
    return pl.DataFrame(ROWS).write_csv(separator=separator)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({"data": ROWS})),
        ("a.json", json.dumps({"version": "1", "train": ROWS, "authors": ["a"]}, indent=1)),
        ("a.json", lines(ROWS)),
        ("a.jsonl", lines(ROWS)),
        ("a.jsonl", lines(ROWS).replace("\n", "\r\n")),
        ("a.jsonl", "\n" + lines(ROWS) + "\n\n"),
        ("a.jsonl", json.dumps(ROWS)),
        ("a.csv", as_csv(",")),
        ("a.tsv", as_csv("\t")),
    ],
)
def test_text_files(tmp_path: Path, name: str, content: str) -> None:
    file = read_file(write(tmp_path, name, content))
    assert file.rows == ROWS
    assert (file.encoding, file.guessed) == ("utf-8", False)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_found_and_said(tmp_path: Path, separator: str) -> None:
    shown = separator.replace("\t", "\\t")
    rows = [*ROWS, {"query": "1,5 kg", "response": "a, b, c"}]
    content = pl.DataFrame(rows).write_csv(separator=separator, quote_style="always")
    for text in (content, f"sep={separator}\r\n{content}", content.encode("gb18030")):
        file = read_file(write(tmp_path, "a.csv", text))
        assert file.rows == rows
        assert [(note.code, note.facts["separator"]) for note in file.notes] == [("data.separator", shown)]


def test_a_comma_where_nothing_else_is_sure(tmp_path: Path) -> None:
    for content, rows in (
        ("text\none; two\nthree\n", [{"text": "one; two"}, {"text": "three"}]),
        ("a,b;c\n1,2;3\n", [{"a": "1", "b;c": "2;3"}]),
        ("a,b\n1,2;3\n", [{"a": "1", "b": "2;3"}]),
    ):
        file = read_file(write(tmp_path, "a.csv", content))
        assert file.rows == rows and not file.notes
    odd = read_file(write(tmp_path, "a.csv", "a,b\n1,2\n3\n"))
    assert odd.rows[0] == {"a": "1", "b": "2"} and isinstance(odd.rows[1], Unread)


def test_a_file_of_which_no_row_can_be_read(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"prompt": "a", "completion": "b", "prompt": "c"}\n' * 3)
    with pytest.raises(TunesmithError, match=r"data.no_row_readable .*a key stands twice .*duplicate_key") as caught:
        prepare(DataSpec(sources=[SourceSpec(path="a.jsonl")]), tmp_path, Ledger())
    assert caught.value.facts["rows"] == 3


def test_columnar_files(tmp_path: Path) -> None:
    frame = pl.DataFrame(ROWS)
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_ipc(tmp_path / "b.arrow")
    frame.write_ipc_stream(tmp_path / "c.arrow")
    assert [read_file(path).rows for path in list_files(tmp_path)[0]] == [ROWS] * 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_encodings_by_mark(tmp_path: Path, encoding: str, name: str) -> None:
    content = lines(ROWS) if name == "a.jsonl" else as_csv(",")
    file = read_file(write(tmp_path, name, content.encode(encoding)))
    assert file.rows == ROWS
    assert (file.encoding, file.guessed) == (encoding, False)


def test_gb18030_only_by_attempt_and_noted(tmp_path: Path) -> None:
    file = read_file(write(tmp_path, "a.jsonl", lines(ROWS).encode("gb18030")))
    assert file.rows == ROWS
    assert (file.encoding, file.guessed) == ("gb18030", True)


def test_gb18030_whose_pairs_are_often_utf8_too(tmp_path: Path) -> None:
    sentence = "请把这句话翻译成英文：今天天气很好，我们去公园散步吧。"
    half_utf8 = "帽子店的帽子很好看"  # 帽 is 0xC3 0xB1, which UTF-8 reads as one character
    for text in (sentence, half_utf8):
        file = read_file(write(tmp_path, "a.csv", f"prompt,answer\n{text},yes\n".encode("gb18030")))
        assert file.rows[0]["prompt"] == text
        assert file.encoding == "gb18030"


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "Käse, Würste und Brötchen für alle Gäste"}\n'.encode("latin-1"),
        b'{"text": "half \xe4\xbd"}\n',
        '{"text": "我们在这里写一些中文"}\n'.encode()[:-4] + b'"}\n',
        lines(ROWS).encode() + b"\xff\n",
    ],
)
def test_wrong_bytes_stop_with_their_offset(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, "a.jsonl", content)
    with pytest.raises(TunesmithError) as caught:
        read_file(path)
    assert caught.value.code == "data.wrong_encoding"
    with pytest.raises(UnicodeDecodeError) as reference:
        content.decode()
    assert caught.value.facts["offset"] == reference.value.start


def test_a_broken_line_costs_its_row_alone(tmp_path: Path) -> None:
    broken = ['{"query": "x", ', '{"a": 1, "a": 2}', "[1]", '{"n": 1' + "0" * 5000 + "}"]
    rows = read_file(write(tmp_path, "a.jsonl", lines(ROWS) + "\n".join(broken))).rows
    reasons: list[Reason] = ["broken_json", "duplicate_key", "not_an_object", "broken_json"]
    assert rows[2:] == [Unread(reason, line) for reason, line in zip(reasons, broken, strict=True)]
    assert "query" not in repr(rows[2:]), "what a row says is for an export alone"


def test_nesting_without_end_costs_its_row_alone(tmp_path: Path) -> None:
    deep = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
    assert read_file(write(tmp_path, "a.jsonl", lines(ROWS) + deep)).rows[2:] == [Unread("too_deep", deep[:-1])]
    with pytest.raises(TunesmithError, match=r"data.too_deep"):
        read_file(write(tmp_path, "a.json", "[" * 100_000))


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl", "", "data.empty_file"),
        ("a.jsonl", "\n \n", "data.empty_file"),
        ("a.json", "[]", "data.empty_file"),
        ("a.csv", "query,response\n", "data.empty_file"),
        ("a.json", '[{"a": 1}, {"a": ]', "data.broken_json"),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS}), "data.several_lists .*names=test, train"),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS, "data": []}, indent=1), "data.several_lists"),
        ("a.json", '{"train": [{"a": 1}], "train": [{"a": 2}]}', "data.several_lists"),
        ("a.jsonl", "once upon\na time\n", "data.broken_json"),
        ("a.csv", 'a,b\n"x,y\n', "data.broken_csv"),
        ("a.csv", "a,a\n1,2\n", "data.duplicate_columns"),
        ("a.parquet", "PAR1 not really", "data.broken_file"),
        ("a.arrow", "ARROW1 not really", "data.broken_file"),
        ("a.jsonl", "PK\x00\x00\x00", "data.not_text"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, code: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(TunesmithError, match=code):
        read_file(path)


def test_broken_json_names_the_place(tmp_path: Path) -> None:
    content = '[\n {"a": 1},\n {"a": ]\n'
    with pytest.raises(TunesmithError) as caught:
        read_file(write(tmp_path, "a.json", content))
    assert (caught.value.facts["line"], caught.value.facts["offset"]) == (3, content.index("]"))


def test_short_and_long_lines_of_a_table(tmp_path: Path) -> None:
    rows = read_file(write(tmp_path, "a.csv", "a,b\n1,2\n3\n4,5,6\n")).rows
    assert rows == [{"a": "1", "b": "2"}, Unread("wrong_field_count", "3"), Unread("wrong_field_count", "4,5,6")]


def test_a_document_keeps_what_was_wrong_with_its_rows(tmp_path: Path) -> None:
    rows = read_file(write(tmp_path, "a.json", '[{"a": 1}, {"b": {"a": 1, "a": [2, "二"]}}, 3]')).rows
    assert rows == [{"a": 1}, Unread("duplicate_key", '{"b": {"a": 1, "a": [2, "二"]}}'), Unread("not_an_object", "3")]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_document_may_be_one_row(tmp_path: Path, indent: int | None) -> None:
    row = {"messages": [{"role": "user", "content": "a"}], "tools": [{"name": "f"}]}
    assert read_file(write(tmp_path, "a.json", json.dumps(row, indent=indent))).rows == [row]


@pytest.mark.parametrize("space", ["", "\n"])
def test_a_doubled_key_in_a_list_of_rows_costs_its_row_alone(tmp_path: Path, space: str) -> None:
    content = '{"data": [{"a": 1},' + space + '{"a": 1, "a": 2}]}'
    assert read_file(write(tmp_path, "a.json", content)).rows == [
        {"a": 1},
        Unread("duplicate_key", '{"a": 1, "a": 2}'),
    ]


def test_columns_that_are_no_names_are_counted_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(TunesmithError) as caught:
        read_file(write(tmp_path, "a.csv", "my secret,a,a,my secret\n1,2,3,4\n"))
    assert caught.value.facts["columns"] == "a, 1 that do not look like names of columns"


def test_folders(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/x.csv", ".hidden/y.jsonl", "a/.z.csv", ".gitkeep", "README.md", "dataset_info.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path, name, "{}")
    taken, passed_over = list_files(tmp_path)
    assert [path.name for path in taken] == ["x.csv", "b.jsonl"]
    assert {path.name for path in passed_over} == {"y.jsonl", ".z.csv", "README.md", "dataset_info.json"}
    with pytest.raises(TunesmithError, match=r"data.missing_path"):
        list_files(tmp_path / "nowhere")
    write(tmp_path, "notes.odt", "{}")
    with pytest.raises(TunesmithError, match=r"data.unknown_suffix"):
        list_files(tmp_path / "notes.odt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TunesmithError, match=r"data.empty_folder"):
        list_files(tmp_path / "empty")


def test_rows_that_memory_cannot_hold_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "rows.jsonl", "{}" * 2**20)
    with (tmp_path / "rows.jsonl").open("r+b") as file:
        file.truncate(3 * 10**9)  # a hole: it takes no space
    monkeypatch.setattr(fits, "free_memory_bytes", lambda: 16 * 10**9)
    with pytest.raises(TunesmithError) as caught:
        prepare(DataSpec.model_validate({"sources": [{"path": "rows.jsonl"}]}), tmp_path, Ledger())
    assert caught.value.code == "data.larger_than_memory"
    assert caught.value.facts == {"path": "rows.jsonl", "size": "3.0", "needed": "18.0", "free": "16.0"}
    monkeypatch.setattr(fits, "free_memory_bytes", lambda: 18 * 10**9)
    fits.refuse_larger_than_memory([tmp_path / "rows.jsonl"], "rows.jsonl")


def test_sources_that_fit_one_by_one_and_not_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        write(tmp_path, name, "{}" * 2**20)
        with (tmp_path / name).open("r+b") as file:
            file.truncate(10**9)
    monkeypatch.setattr(fits, "free_memory_bytes", lambda: 17 * 10**9)
    given = {"sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}], "test_sources": [{"path": "c.jsonl"}]}
    for begin in (prepare, read_and_clean):
        stated = given if begin is prepare else {"sources": [{"path": f"{each}.jsonl"} for each in "cab"]}
        with pytest.raises(TunesmithError) as caught:
            begin(DataSpec.model_validate(stated), tmp_path, Ledger())
        assert caught.value.code == "data.larger_than_memory"
        assert caught.value.facts == {
            "path": "c.jsonl, a.jsonl, b.jsonl",
            "size": "3.0",
            "needed": "18.0",
            "free": "17.0",
        }
    twice = [SourceSpec(path="a.jsonl"), SourceSpec(path="b.jsonl"), SourceSpec(path="a.jsonl", sample=3)]
    fits.refuse_together_larger_than_memory(twice, tmp_path)  # what is read again takes no more than before


def test_short_rows_take_more_memory_than_long_ones_of_the_same_bytes(tmp_path: Path) -> None:
    short = write(tmp_path, "short.jsonl", ("x" * 63 + "\n") * 2**15)
    long = write(tmp_path, "long.jsonl", ("x" * 4095 + "\n") * 2**9)
    assert [fits.least_memory(short), fits.least_memory(long)] == [6 * 2**21 + 1500 * 2**15, 6 * 2**21 + 1500 * 2**9]
