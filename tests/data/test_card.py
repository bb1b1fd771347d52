from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest

from tunesmith.core.ledger import Ledger
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown, as_page
from tunesmith.data.diversity import compared, diversity
from tunesmith.data.plots import bars, spread
from tunesmith.data.prepare import prepare
from tunesmith.data.prepared import Prepared
from tunesmith.recipe.specs.data import DataSpec


def prepared(folder: Path, rows: Sequence[dict[str, object]], **settings: object) -> Prepared:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sources = [{"path": "a.jsonl", "licence": "CC-BY-4.0"}]
    return prepare(DataSpec.model_validate({"sources": sources, **settings}), folder, Ledger())


def chats(count: int = 40) -> list[dict[str, object]]:
    return [{"prompt": f"question {number}", "completion": "yes " * (number + 1)} for number in range(count)]


def test_diversity_is_that_of_the_definition() -> None:
    texts = pl.Series(["a b a b", "The cat. The cat!", "你好你好"])
    words = [["a", "b", "a", "b"], ["the", "cat", "the", "cat"], list("你好你好")]
    found = diversity(texts)
    for order, share in zip((1, 2, 3), found.distinct, strict=True):
        grams = [tuple(row[at : at + order]) for row in words for at in range(len(row) - order + 1)]
        assert share == pytest.approx(len(set(grams)) / len(grams))
    assert (found.rows, found.words) == (3, 12)
    again = diversity(pl.Series(["same words here"] * 400))
    assert again.compression > 20 > found.compression
    raw = "\n".join(["same words here"] * 400).encode()
    assert again.compression == pytest.approx(len(raw) / len(zlib.compress(raw, 6)))


def test_tables_are_compared_on_equally_many_words() -> None:
    large, small = (
        pl.Series([f"word{number % 50}" for number in range(4000)]),
        pl.Series(["one two", "three four", "!"]),
    )
    found = compared([large, small, pl.Series([""])])
    assert [each.words for each in found] == [4, 4, 0] and found[0].distinct[0] > 0.4


def test_diversity_of_nothing_is_no_error() -> None:
    assert diversity(pl.Series([], dtype=pl.String)).words == 0
    assert diversity(pl.Series(["", "!?"])).distinct == (0.0, 0.0, 0.0)


def test_the_card_holds_version_licence_and_figures_in_both_languages(tmp_path: Path) -> None:
    found = prepared(tmp_path, [*chats(), chats()[0], {"prompt": "", "completion": "x"}])
    tokens = {split: [7] * len(frame) for split, frame in found.frames.items()}
    sections = card_sections(found, tokens)
    for card in (as_markdown(sections), as_page(sections)):
        for words in (found.version.id, "CC-BY-4.0", "Data card", "数据卡", "distinct-2", "压缩比", "nothing is asked"):
            assert words in card
    assert "<svg" not in as_markdown(sections) and as_page(sections).count("<svg") >= 2


def test_the_page_is_whole_and_what_rows_and_files_say_is_escaped(tmp_path: Path) -> None:
    nasty = '<script>alert(1)</script> & "|`'
    rows: list[dict[str, object]] = [
        {"text": f"text {number}", "label": f"{nasty}{number % 3}"} for number in range(30)
    ]
    found = prepared(tmp_path, rows, task="text_class")
    sections = card_sections(found)
    page = as_page(sections)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=", page)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)
    lines = [
        line for line in as_markdown(sections).splitlines() if nasty.split("|")[0] in line and line.startswith("| <")
    ]
    assert lines and all(line.replace("\\|", "").count("|") == 5 for line in lines)


def test_bars_are_in_proportion() -> None:
    picture = ElementTree.fromstring(bars("t", [("a", 10), ("b", 5), ("c", 0)], ["10", "5", "0"]))
    wide = [
        float(each.attrib["width"])
        for each in picture.iter("{http://www.w3.org/2000/svg}rect")
        if each.attrib["class"] == "one"
    ]
    assert wide[1] == pytest.approx(wide[0] / 2, abs=0.1) and wide[2] == 0


@pytest.mark.parametrize("lengths", [[1], [0, 0, 0], [5, 5], [1, 10**6], list(range(300))])
def test_every_row_stands_in_one_bin(lengths: list[int]) -> None:
    picture = spread("t", "tokens", {"train": lengths, "test": lengths, "none": []})
    tree = ElementTree.fromstring(picture)
    columns = [each for each in tree.iter("{http://www.w3.org/2000/svg}rect") if "opacity" in each.attrib]
    heights = [float(each.attrib["height"]) for each in columns]
    assert max(heights) == pytest.approx(146, abs=0.2) and all(height >= 0 for height in heights)
    assert "nan" not in picture and "inf" not in picture


def test_no_lengths_no_picture() -> None:
    assert spread("t", "tokens", {"train": []}) == ""
