"""Running text becomes rows: what a reader would see, cut at paragraphs, nothing lost."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from office_files import docx, paragraph, pdf, xlsx

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.files import Manner, read_file, read_files
from tunesmith.data.formats.html import text_of_html
from tunesmith.data.formats.passages import passages
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.recipe.specs.sources import SourceSpec


def words(rows: object) -> list[str]:
    assert isinstance(rows, list)
    return [row["text"] for row in rows]


def test_passages_lose_nothing_and_keep_their_length() -> None:
    draw = random.Random(7)
    signs = "ab c。，.! \n\t字文é🎻"
    for _ in range(300):
        text = "".join(
            draw.choices(signs, weights=[9, 9, 6, 3, 1, 1, 1, 1, 1, 3, 1, 9, 9, 1, 1], k=draw.randrange(1, 900))
        )
        longest = draw.randrange(5, 120)
        found = list(passages(text, longest))
        assert "".join("".join(found).split()) == "".join(text.split())
        assert all(0 < len(each) <= longest and each == each.strip() for each in found)


def test_passages_end_at_paragraphs_then_sentences_then_words() -> None:
    assert list(passages("one\n\ntwo\n \nthree", 8)) == ["one\n\ntwo", "three"]
    assert list(passages("First sentence. Second sentence.", 20)) == ["First sentence.", "Second sentence."]
    assert list(passages("第一句话说完了。第二句话也说完了。", 10)) == ["第一句话说完了。", "第二句话也说完了。"]
    assert list(passages("alpha beta gamma", 11)) == ["alpha beta", "gamma"]
    assert list(passages("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5]
    assert list(passages(" \n\n ", 10)) == []


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_text_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes("第一段。\r\n\r\n第二段，请注意查收您的订单。".encode("gb18030"))
    file = read_file(path, Manner(chunk_size=20))
    assert words(file.rows) == ["第一段。\n\n第二段，请注意查收您的订单。"] or len(file.rows) == 2
    assert "".join("".join(words(file.rows)).split()) == "第一段。第二段，请注意查收您的订单。"
    assert (file.encoding, file.guessed, file.document) == ("gb18030", True, True)


def test_html_is_what_a_reader_sees() -> None:
    page = """<html><head><title>Prices</title><style>p {color: red}</style></head><body><!-- hidden -->
    <h1>Our&nbsp;prices</h1><p>One <b>pen</b> costs<br>2&euro;.</p><script>alert("x")</script>
    <table><tr><td>pen</td><td>2</td></tr><tr><td>ink</td><td>5</td></tr></table><ul><li>a<li>b</ul>"""
    assert text_of_html(page) == "Prices\n\nOur prices\n\nOne pen costs\n2€.\n\npen 2\nink 5\n\na\n\nb"


def test_html_as_people_write_it() -> None:
    for markup, words in (
        ("a < b and b > c", "a < b and b > c"),
        ("1 <2 & 3", "1 <2 & 3"),
        ("<a title='x > y' href=\"p>q\">link</a>", "link"),
        (f"<img src='data:{'A' * 9000}'>words", "words"),
        ("<script>if (a < b) { '</p>' }</SCRIPT >after", "after"),
        ("<svg><text>no</text></svg>yes<svg/>still", "yesstill"),
        ("<p>one<p>two<!-- <p>three --><P>four", "one\n\ntwo\n\nfour"),
        ("cut <a href='", "cut <a href='"),
        ("&lt;p&gt; &amp;amp; &#36864;&#x6b3e;", "<p> &amp; 退款"),
        ("<?xml version='1.0'?><!DOCTYPE html>İ<script>x</script>ok", "İok"),
    ):
        assert text_of_html(markup) == words, markup


def test_a_page_states_its_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_bytes('<meta charset="Shift_JIS"><p>配送状況を確認'.encode("shift_jis"))
    file = read_file(path)
    assert (words(file.rows), file.encoding, file.guessed) == (["配送状況を確認"], "shift_jis", False)


def test_a_stated_encoding_is_used(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("prompt,completion\noù,là\n".encode("latin-1"))
    assert read_file(path, Manner("latin-1")).rows == [{"prompt": "où", "completion": "là"}]
    with pytest.raises(TunesmithError) as caught:
        read_file(path, Manner("utf-8"))
    assert (caught.value.code, caught.value.facts["offset"]) == ("data.wrong_encoding", 19)


def test_word_documents(tmp_path: Path) -> None:
    deleted = "<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>kept</w:t></w:r></w:p>"
    box = "<w:p><w:r><w:t>box</w:t></w:r></w:p>"
    twice = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent>"
    lines = "<w:p><w:r><w:t>a</w:t><w:br/><w:t>b</w:t><w:tab/><w:t>c</w:t></w:r></w:p>"
    path = tmp_path / "a.docx"
    path.write_bytes(docx(paragraph("Refunds take ", "3 days & more.") + deleted + twice + lines + paragraph("退款")))
    assert words(read_file(path, Manner(chunk_size=100)).rows) == [
        "Refunds take 3 days & more.\n\nkept\n\nbox\n\na\nb\tc\n\n退款"
    ]


def test_an_entity_in_a_word_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    path.write_bytes(docx("<w:p><w:r><w:t>&b;</w:t></w:r></w:p>", bomb))
    with pytest.raises(TunesmithError, match=r"data\.broken_file"):
        read_file(path)


def test_pdf_files(tmp_path: Path) -> None:
    pytest.importorskip("pypdf", reason="needs the extra documents")
    path = tmp_path / "a.pdf"
    path.write_bytes(pdf(["Refunds take three days.", "", "Parcels take two."]))
    file = read_file(path)
    assert words(file.rows) == ["Refunds take three days.\n\nParcels take two."]
    assert [(note.code, note.facts["silent"], note.facts["pages"]) for note in file.notes] == [
        ("data.silent_pages", 1, 3)
    ]
    path.write_bytes(pdf(["", ""]))
    with pytest.raises(TunesmithError, match=r"data\.no_words"):
        read_file(path)


def test_workbooks(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="needs the extra documents")
    path = tmp_path / "a.xlsx"
    asked = [["prompt", "completion", None, "n"], ["退款?", "three days", None, 12], [None] * 4, ["b", "c ", None, 1.5]]
    path.write_bytes(
        xlsx({"faq": asked, "empty": [], "votes": [["text", "label"], ["x", True]], "old": [["a"], ["b"]]}, ["old"])
    )
    faq, votes = read_files(path)
    assert faq.rows == [
        {"prompt": "退款?", "completion": "three days", "n": "12"},
        {"prompt": "b", "completion": "c ", "n": "1.5"},
    ]
    assert votes.rows == [{"text": "x", "label": "true"}]
    assert [file.path.name for file in (faq, votes)] == ["faq", "votes"]
    assert [(note.code, note.facts["sheet"]) for note in faq.notes] == [("data.hidden_sheet", "old")]
    path.write_bytes(xlsx({"one": [["a", "a"], ["1", "2"]]}))
    with pytest.raises(TunesmithError, match=r"data\.duplicate_columns"):
        read_file(path)


def test_titles_and_empty_sheets_are_passed_over_and_said(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="needs the extra documents")
    path = tmp_path / "客服.xlsx"
    rows = [["问题", "答案", "日期"], ["发货?", "三天内", "2026-01-02"], ["退款?", None, None]]
    titled = [[None] * 3, ["客服问答汇总表", None, None], ["第一季度", None, None], [None] * 3, *rows]
    path.write_bytes(xlsx({"问答": titled, "说明": [["本表由客服部维护"]]}, merged=["A2:C2", "A3:C3"]))
    (file,) = read_files(path)
    assert file.rows == [dict(zip(rows[0], [cell or "" for cell in row], strict=True)) for row in rows[1:]]
    assert [(note.code, note.facts["sheet"]) for note in file.notes] == [
        ("data.sheet_titles", "问答"),
        ("data.empty_sheet", "说明"),
    ]
    assert file.notes[0].facts["rows"] == 2
    # an index that pandas writes has no name, and cells that are merged downwards are no title
    path.write_bytes(xlsx({"s": [[None, "text"], [0, "a"], [1, "b"]]}, merged=["A2:A3"]))
    assert read_files(path)[0].rows == [{"": "0", "text": "a"}, {"": "1", "text": "b"}]


def test_the_sheet_that_a_source_names(tmp_path: Path) -> None:
    pytest.importorskip("python_calamine", reason="needs the extra documents")
    path = tmp_path / "a.xlsx"
    table = [["prompt", "completion"], ["a", "b"]]
    path.write_bytes(xlsx({"faq": table, "about": [["made", "by"], ["us", "all"]], "old": table * 2}, ["old"]))
    (file,) = read_files(path, Manner(sheet="faq"))
    assert file.rows == [{"prompt": "a", "completion": "b"}] and not file.notes
    assert len(read_files(path, Manner(sheet="old"))[0].rows) == 3, "hidden, and asked for"
    with pytest.raises(TunesmithError, match=r"data\.no_such_sheet .*faq, about, old"):
        read_files(path, Manner(sheet="FAQ"))


@pytest.mark.parametrize(
    ("name", "setting"),
    [("a.jsonl", {"sheet": "faq"}), ("a.jsonl", {"chunk_size": 200}), ("a.xlsx", {"encoding": "gb18030"})],
)
def test_a_setting_that_no_file_of_a_source_heeds(tmp_path: Path, name: str, setting: dict[str, object]) -> None:
    pytest.importorskip("python_calamine", reason="needs the extra documents")
    row = {"prompt": "a", "completion": "b"}
    content = json.dumps(row).encode() if name == "a.jsonl" else xlsx({"s": [list(row), list(row.values())]})
    (tmp_path / name).write_bytes(content)
    source = SourceSpec.model_validate({"path": name, **setting})
    with pytest.raises(TunesmithError, match=rf"data\.idle_source_setting .*{next(iter(setting))}"):
        read_source(source, "train", tmp_path, Reading("chat", None, 0), Ledger())


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, name, content in (("pypdf", "a.pdf", pdf(["x"])), ("python_calamine", "a.xlsx", xlsx({"s": [["a"]]}))):
        monkeypatch.setitem(sys.modules, module, None)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TunesmithError) as caught:
            read_file(tmp_path / name)
        assert (caught.value.code, caught.value.facts["extra"]) == ("data.extra_missing", "documents")


def read_texts(folder: Path, path: str) -> tuple[list[dict[str, object]], list[tuple[str, str]]]:
    spec = SourceSpec(path=path, chunk_size=100)
    frame, report = read_source(spec, "train", folder, Reading("text", None, 1), Ledger())
    return frame.select("text", "group").to_dicts(), [(each.path, each.layout) for each in report.files]


def test_rows_of_one_document_stay_together_where_there_are_several(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("a", "b"):
        (tmp_path / "docs" / f"{name}.txt").write_text(f"{name} " * 80, "utf-8")
    rows, files = read_texts(tmp_path, "docs")
    assert {row["group"] for row in rows} == {"docs/a.txt", "docs/b.txt"} and len(rows) == 4
    assert files == [("docs/a.txt", "text"), ("docs/b.txt", "text")]
    alone, _ = read_texts(tmp_path, "docs/a.txt")
    assert {row["group"] for row in alone} == {""}


def test_documents_beside_rows_describe_them_and_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "rows.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n', "utf-8")
    (tmp_path / "all" / "about.txt").write_text("About these rows.", "utf-8")
    spec = SourceSpec(path="all")
    frame, report = read_source(spec, "train", tmp_path, Reading("text", None, 1), Ledger())
    assert frame["text"].to_list() == ["a", "b"]
    assert [note.facts["path"] for note in report.notes if note.code == "data.passed_over"] == ["all/about.txt"]
