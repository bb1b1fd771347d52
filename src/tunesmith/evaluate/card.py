"""The release card: one page by which a product manager decides, as HTML and as Markdown, in both languages.

Everything that comes from a recipe, a row or a model is untrusted text and is escaped; the page fetches nothing,
runs no script, and says so to the browser (Content-Security-Policy).
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tunesmith.core.errors import Fact
from tunesmith.core.files import write_atomic
from tunesmith.evaluate.card_facts import MOST_EXAMPLES, CardFacts
from tunesmith.evaluate.decide import Verdict, decide
from tunesmith.evaluate.loss_plot import loss_svg
from tunesmith.evaluate.support_rate import METRIC_REFEREE, prompts_needed
from tunesmith.evaluate.wording import (
    Words,
    duration,
    file_size,
    metric_words,
    percent,
    points,
    reason_words,
    with_interval,
    words_of,
)
from tunesmith.messages import LANGUAGES, Language, language

HTML_NAME = "release_card.html"
MARKDOWN_NAME = "release_card.md"

_TEMPLATES = Path(__file__).parent / "templates"
_TAGS: dict[Language, str] = {"en": "en", "zh": "zh-Hans"}
_LONGEST_TEXT = 600
_MARKDOWN_SIGNS = re.compile(r"([\\`*_{}\[\]()#+\-!|~$])")


def write_cards(folder: Path, facts: CardFacts) -> tuple[Path, Path]:
    """Write release_card.html and release_card.md into the folder, durably. Errors: those of `write_atomic`."""
    page, text = folder / HTML_NAME, folder / MARKDOWN_NAME
    write_atomic(page, render_html(facts))
    write_atomic(text, render_markdown(facts))
    return page, text


def render_html(facts: CardFacts) -> str:
    """The page, both languages in it, a switch between them; the language in force is the one shown first."""
    return _render("release_card.html.j2", facts, None)


def render_markdown(facts: CardFacts) -> str:
    """The card as Markdown: the whole card in the language in force, then in the other."""
    order = sorted(LANGUAGES, key=lambda each: each != language())
    return "\n---\n\n".join(_render("release_card.md.j2", facts, each) for each in order)


def _render(template: str, facts: CardFacts, only: Language | None) -> str:
    """Render in one language, or with both of them in switched spans when `only` is None."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=only is None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    verdict = decide(facts)

    def shown(words: Words) -> str:
        return switched(words) if only is None else words[only]

    def translated(code: str, **values: Fact | Words) -> str:
        return shown(words_of(code, **values))

    environment.filters.update(
        words=shown,
        percent=percent,
        points=points,
        ranged=with_interval,
        duration=duration,
        metric=metric_words,
        size=file_size,
        count=lambda number: f"{number:,}",
        safe_text=shortened,
        breakable=breakable,
        fence=fenced,
        md=markdown_text,
    )
    return environment.get_template(template).render(
        t=translated,
        facts=facts,
        verdict=verdict,
        headline=_headline(verdict),
        not_stated=words_of("not_stated"),
        examples=facts.examples[:MOST_EXAMPLES] if facts.examples_allowed else (),
        more_prompts=None if facts.support is None else prompts_needed(facts.support.rate.value),
        by_metric=facts.support is not None and facts.support.referee == METRIC_REFEREE,
        loss=Markup(loss_svg(facts.training.losses)) if facts.training.losses is not None else "",
        fates=[(*_fate(label), rows) for label, rows in facts.data.fates.items()],
        shown_first=language(),
        languages=LANGUAGES,
        only=only,
    )


def _fate(label: str) -> tuple[str, Words | None]:
    """A label of the ledger as its fate and its reason in words; reasons are codes of the data room."""
    fate, _, reason = label.partition(": ")
    return fate, reason_words(reason) if reason else None


def _headline(verdict: Verdict) -> dict[str, str]:
    signs = {"release": "✓", "revise": "↻", "block": "✕"}
    return {
        "title": f"card_{verdict.decision}",
        "why": f"card_why_{verdict.decision}",
        "sign": signs[verdict.decision],
    }


def switched(words: Words) -> Markup:
    """HTML with the text of every language, of which the page shows one; a text that is the same appears once."""
    shown = {each: visible(words[each]) for each in LANGUAGES}
    if len(set(shown.values())) == 1:
        return escape(shown[LANGUAGES[0]])
    # `format` of Markup escapes what it fills in
    return Markup("").join(Markup('<span lang="{}">{}</span>').format(_TAGS[each], shown[each]) for each in LANGUAGES)


def visible(text: str) -> str:
    """Text without control characters and without those that change the direction of what follows (joiners stay)."""
    return "".join(
        character
        if character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs")
        else "\ufffd"
        for character in text
    )


def shortened(text: str) -> str:
    """Text of a row, made safe to show (`visible`), at most 600 characters."""
    kept = visible(text[:_LONGEST_TEXT])
    return kept if len(text) <= _LONGEST_TEXT else kept + " …"


def breakable(text: str) -> Markup:
    """HTML of a row's text (`shortened`) whose lines may break after a comma: compact JSON has no blanks."""
    return Markup(",<wbr>").join(shortened(text).split(","))  # `join` of Markup escapes what it joins


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: one line, no markup, no HTML."""
    line = " ".join(shortened(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_SIGNS.sub(r"\\\1", line)


def fenced(text: str) -> str:
    """A Markdown code block around the text, with a fence longer than any in it."""
    kept = shortened(text)
    longest = max((len(run) for run in re.findall(r"`+", kept)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{kept}\n{fence}"
