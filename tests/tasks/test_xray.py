"""The X-ray shows every token once, as it is, and lets no row steer the page or the terminal."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import pytest
from chat_templates import CHATML, tokenizer_for

from tunesmith.core.types import Example, Message, Origin
from tunesmith.messages import LANGUAGES, both, set_language
from tunesmith.tasks.chat import ChatTask, Encoded
from tunesmith.tasks.mask_gate import shares_by_source
from tunesmith.tasks.xray import as_page, as_terminal_text, pieces, share_lines

EVIL = "<script>alert('x')</script><b class=\"end\">&amp; $title ${rows} [bold]red[/bold]"


@pytest.fixture(scope="module")
def task() -> ChatTask:
    tokenizer = tokenizer_for(CHATML)
    return ChatTask(tokenizer, [int(tokenizer.eos_token_id)], 4096)


def example(asked: str, said: str, weight: float | None = None, source: str = "here") -> Example:
    return Example(7, "chat", Origin(source, 0), (Message("user", asked), Message("assistant", said, weight=weight)))


def decoded(task: ChatTask, item: Encoded) -> str:
    return str(task.tokenizer.decode(list(item.features.token_ids)))


class Page(HTMLParser):
    """Collects tags, and the text of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if "pre" in self.tags and not self.rows.endswith("</pre>"):
            self.rows += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self.rows += "</pre>"


TEXTS = [
    "龘靐齉爩 Ψ 🎻👩‍👩‍👧‍👦 é",
    "你好，今天天气很好",
    EVIL,
    "a\n\nb\tc",
    "half \ufffd and \ufffd\ufffd\ufffd\ufffd\ufffd\ufffd",
    "x",
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_token_is_shown_once_as_it_is(task: ChatTask, text: str) -> None:
    item = task.encode(example(text, text + "."))
    shown = pieces(task, item)
    assert "".join(piece.text for piece in shown) == decoded(task, item)
    assert as_terminal_text(task, item).plain.replace("⏎\n", "\n") == decoded(task, item)
    said = "".join(piece.text for piece in shown if piece.weight)
    assert said == f"{text}.<|im_end|>"
    assert [piece.text for piece in shown if piece.ends] == ["<|im_end|>", "<|im_end|>"]


def test_characters_split_over_tokens_are_shown_whole(task: ChatTask) -> None:
    item = task.encode(example("x", "龘🎻"))
    assert len(item.features.token_ids) > len(pieces(task, item))
    assert [piece.text for piece in pieces(task, item) if piece.weight] == ["龘", "🎻", "<|im_end|>"]


def test_a_row_cut_within_a_character_still_shows_its_last_tokens() -> None:
    tokenizer = tokenizer_for(CHATML)
    end = int(tokenizer.eos_token_id)
    whole = ChatTask(tokenizer, [end], 4096).encode(example("x", "龘龘龘"))
    for limit in range(8, len(whole.features.token_ids)):
        task = ChatTask(tokenizer, [end], limit)
        item = task.encode(example("x", "龘龘龘"))
        assert "".join(piece.text for piece in pieces(task, item)) == decoded(task, item), limit


def test_colours_follow_the_weights(task: ChatTask) -> None:
    for weight, style in ((None, "black on green"), (0.5, "black on green"), (0, "grey50")):
        text = as_terminal_text(task, task.encode(example("hi", "Hello", weight)))
        place = text.plain.index("Hello")
        assert [str(span.style) for span in text.spans if span.start <= place < span.end] == [style]
    ends = [str(span.style) for span in as_terminal_text(task, task.encode(example("hi", "Hello"))).spans]
    assert ends.count("bold white on blue") == 1, "only the end token that is trained"


def test_a_row_does_not_steer_the_terminal(task: ChatTask) -> None:
    plain = as_terminal_text(task, task.encode(example("\x1b[2J\x1b]0;title\x07", "a\rb\x08\x7f"))).plain
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", plain) and "␛[2J" in plain and "a␍b␈␡" in plain


def test_the_page_shows_rows_as_text(task: ChatTask) -> None:
    examples = [example(EVIL, EVIL + "你好", source=EVIL), example("hi", "Hello", 0.5)]
    items = [task.encode(each) for each in examples]
    page = as_page(task, items, shares_by_source(examples[:1], items[:1]))
    parsed = Page()
    parsed.feed(page)
    assert "script" not in parsed.tags and html.escape(EVIL) in page
    assert parsed.rows.count("</pre>") == 2
    for item in items:
        assert html.escape(decoded(task, item)) in re.sub(r"</?b[^>]*>", "", page)
    assert '<b class="end">&lt;|im_end|&gt;</b>' in page and '<b class="partial">Hello' in page
    legend = both("tasks.xray_legend")
    assert all(legend[each] in page for each in LANGUAGES)


def test_shares_are_said_in_the_language_in_force(task: ChatTask) -> None:
    examples = [example("hi", "Hello")]
    items = [task.encode(each) for each in examples]
    sources = shares_by_source(examples, items)
    share = items[0].trained_tokens / len(items[0].features.token_ids)
    for each, word in (("en", "1 rows"), ("zh", "1 行")):
        set_language(each)  # type: ignore[arg-type]
        (line,) = share_lines(sources)
        assert line.startswith("here") and word in line and f"{share:.1%}" in line
