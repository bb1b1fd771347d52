from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from card_samples import sample_curve, sample_facts

from tunesmith.core.events import Event
from tunesmith.evaluate.card import render_html, render_markdown, write_cards
from tunesmith.evaluate.card_facts import ExampleRow, SourceFacts
from tunesmith.evaluate.collect import rounded_to
from tunesmith.evaluate.loss_plot import LossCurve, curve_from_events, loss_svg
from tunesmith.messages import set_language

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'|`*_[a](javascript:x)\x1b[31m\u202eevil"


@pytest.fixture(autouse=True)
def english() -> object:
    set_language("en")
    yield
    set_language(None)


class Page(HTMLParser):
    """Tags, attributes and the text of each language."""

    VOID = frozenset({"meta", "input", "br", "wbr", "path", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[tuple[str, str]] = []
        self.words: dict[str, list[str]] = {"en": [], "zh-Hans": [], "": []}
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag not in self.VOID:
            around = self.open[-1][1] if self.open else ""
            self.open.append((tag, around if tag == "html" else (found.get("lang") or around)))
            if tag == "html":
                self.open[-1] = (tag, "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1][0] == tag, f"{tag} closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] not in ("style", "title") and data.strip():
            self.words[self.open[-1][1]].append(data.strip())


def test_the_page_is_whole_and_alone() -> None:
    text = render_html(sample_facts())
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "form", "base"}
    assert not [value for _, found in page.tags for name, value in found.items() if name.startswith("on")]
    assert "default-src 'none'" in text
    addresses = set(re.findall(r"[a-z]+://[^\s\"'<]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a name space, which nothing fetches"
    assert "url(" not in text and "@import" not in text


def test_both_languages_say_the_same_things() -> None:
    page = Page(render_html(sample_facts()))
    assert len(page.words["en"]) == len(page.words["zh-Hans"]) > 60
    assert "Release" in page.words["en"]
    assert "可以发布" in page.words["zh-Hans"]
    outside = " ".join(page.words[""])
    assert "93.8%" in outside
    figures = {name: sorted(re.findall(r"\d+(?:\.\d+)?", " ".join(words))) for name, words in page.words.items()}
    assert figures["en"] == figures["zh-Hans"]


def test_the_language_in_force_stands_first() -> None:
    for name, checked in (("en", "language-en"), ("zh", "language-zh")):
        set_language(name)  # type: ignore[arg-type]
        inputs = [found for tag, found in Page(render_html(sample_facts())).tags if tag == "input"]
        assert [each["id"] for each in inputs if "checked" in each] == [checked]
    assert render_markdown(sample_facts()).startswith("# 发布卡")


def hostile_facts() -> object:
    facts = sample_facts()
    return replace(
        facts,
        name=HOSTILE,
        run=HOSTILE,
        goal=replace(facts.goal, problem=HOSTILE, business_metric=HOSTILE, target_metric=HOSTILE),
        training=replace(facts.training, base=HOSTILE, method=HOSTILE, base_licence=HOSTILE, device=HOSTILE),
        data=replace(facts.data, sources=(SourceFacts(HOSTILE, 1, HOSTILE), SourceFacts("b", 2)), fates={"kept": 3}),
        examples=(ExampleRow(HOSTILE, HOSTILE, "```\n# not a heading\n" + HOSTILE, HOSTILE * 200),),
        versions={HOSTILE: HOSTILE},
        hashes={HOSTILE: HOSTILE},
    )


def test_hostile_text_stays_text() -> None:
    text = render_html(hostile_facts())  # type: ignore[arg-type]
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert not [name for _, found in page.tags for name in found if name.startswith("on")]
    assert "\x1b" not in text and "\u202e" not in text
    assert "&lt;script&gt;" in text
    assert len(text) < 120_000, "long rows are cut"


def test_hostile_text_stays_text_in_markdown() -> None:
    text = render_markdown(hostile_facts())  # type: ignore[arg-type]
    assert "\x1b" not in text and "\u202e" not in text
    outside, fence = [], ""
    for line in text.splitlines():
        ticks = re.match(r"`{3,}", line)
        if fence:
            fence = "" if line == fence else fence
        elif ticks:
            fence = ticks.group()
        else:
            outside.append(line)
    assert not fence
    assert "<script" not in "\n".join(outside)
    assert "](javascript" not in "\n".join(outside)
    assert "# not a heading" not in outside
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in outside if line.startswith("|")]
    assert set(widths) <= {5, 6}, "a bar inside a cell would break the table"


def test_private_rows_are_never_shown() -> None:
    facts = replace(sample_facts(), examples_allowed=False)
    for text in (render_html(facts), render_markdown(facts)):
        assert "kettle" not in text
        assert "rows are private" in text


def test_at_most_five_examples() -> None:
    facts = sample_facts()
    text = render_html(replace(facts, examples=facts.examples * 4))
    assert text.count('<article class="example">') == 5


def test_what_is_unknown_is_said() -> None:
    facts = sample_facts()
    bare = replace(
        facts, support=None, artefacts=(), speeds=(), cost=None, same_bytes=None, examples=(),
        goal=replace(facts.goal, problem="", need=(), business_metric=""),
        training=replace(facts.training, base_licence="", losses=None, tokens_per_second=None, useful_utilisation=None),
        data=replace(facts.data, leaks=None),
    )  # fmt: skip
    page = Page(render_html(bare))
    words = " ".join(page.words["en"])
    assert "Revise" in words
    for sentence in ("No blind comparison", "Nothing was exported", "not measured", "not stated"):
        assert sentence in words
    assert "None" not in words and "None" not in " ".join(page.words[""])
    assert "None" not in render_markdown(bare)


def test_cards_are_written(tmp_path: Path) -> None:
    page, text = write_cards(tmp_path / "run", sample_facts())
    assert (page.name, text.name) == ("release_card.html", "release_card.md")
    assert "rounded to that format" in page.read_text("utf-8")
    assert "已按该格式舍入" in text.read_text("utf-8")


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"source": "bundled", "quantization": "Q4_1", "lossy": True}, "Q4_1"),
        ({"source": "gguf", "quantization": "BF16", "lossy": False}, ""),
        ({"source": "folder", "quantization": "none", "lossy": False}, ""),
        (None, ""),
    ],
)
def test_only_a_base_that_lost_bits_is_said_to_be_rounded(origin: object, expected: str) -> None:
    assert rounded_to(origin) == expected


# ------------------------------------------------------------------------------------------ loss plot


def numbers(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg))


@pytest.mark.parametrize(
    "curve",
    [
        LossCurve(),
        LossCurve(((1, 2.0),)),
        LossCurve(((5, 0.0), (6, 0.0))),
        LossCurve(((1, float("nan")), (2, float("inf")))),
        LossCurve(((1, 3.0), (2, float("nan")), (3, 1e9)), ((3, 1e-9),), best_step=9),
        sample_curve(5000),
    ],
)
def test_every_curve_gives_a_picture(curve: LossCurve) -> None:
    svg = loss_svg(curve)
    ElementTree.fromstring(svg)
    assert not re.search(r"nan|inf\b", svg)
    assert len(svg) < 60_000


def test_the_line_runs_where_the_losses_are() -> None:
    svg = loss_svg(LossCurve(((0, 4.0), (10, 2.0), (20, 1.0))))
    path = re.search(r'class="train" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg)
    assert path is not None
    x0, y0, x1, y1, x2, y2 = map(float, path.groups())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 - y0 == pytest.approx(2 * (y2 - y1), abs=0.3), "downwards on the page is less loss"
    assert "训练损失" in svg and "training loss" in svg


def test_a_curve_is_read_from_events() -> None:
    events = [
        Event("step", 0, {"step": 1, "loss": 3.0}),
        Event("step", 0, {"step": 2, "loss": 2.5}),
        Event("step", 0, {"step": 2, "loss": 2.0}),
        Event("step", 0, {"step": 3, "loss": float("nan")}),
        Event("validation", 0, {"step": 2, "loss": 2.2}),
        Event("note", 0, {"step": 9, "loss": 9.0}),
    ]
    assert curve_from_events(events, 2) == LossCurve(((1, 3.0), (2, 2.0)), ((2, 2.2),), 2)
    told_apart = [Event("step", 0, {"step": 1, "loss": 3.0, "task": 2.4}), events[4]]
    assert curve_from_events(told_apart) == LossCurve(((1, 2.4),), ((2, 2.2),)), "as the validation measures it"


def test_stages_in_a_row_follow_one_another_in_the_curve() -> None:
    """Each counts its steps from 1; what was done twice after a resume stands once."""
    events = [
        Event("step", 0, {"stage": "a", "step": 1, "loss": 3.0}),
        Event("step", 0, {"stage": "a", "step": 2, "loss": 2.0}),
        Event("validation", 0, {"stage": "a", "step": 2, "loss": 2.2}),
        Event("step", 0, {"stage": "a", "step": 2, "loss": 1.9}),
        Event("step", 0, {"stage": "b", "step": 1, "loss": 5.0}),
        Event("validation", 0, {"stage": "b", "step": 1, "loss": 4.0}),
    ]
    assert curve_from_events(events, 1) == LossCurve(((1, 3.0), (2, 1.9), (3, 5.0)), ((2, 2.2), (3, 4.0)), 3)
