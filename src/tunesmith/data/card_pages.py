"""The data card as Markdown (both languages beside each other) and as a page with pictures and a switch between them.

The page fetches nothing, runs no script and says so to the browser; all that comes from recipes and rows is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import Template

from tunesmith.data.card_parts import Bullets, Cell, Part, Picture, Section, Table, Words
from tunesmith.messages import LANGUAGES, Language, both, language

_TAGS: dict[Language, str] = {"en": "en", "zh": "zh-Hans"}
_NAMES: dict[Language, str] = {"en": "English", "zh": "简体中文"}
_MANY_ROWS = 30
"""A longer table is folded on the page."""

_STYLE = """
:root{--paper:#f6f7f5;--card:#fff;--ink:#1c252c;--quiet:#5b6770;--line:#dfe4e2;--accent:#1f6f78;--soft:#d9ecec}
@media (prefers-color-scheme:dark){:root{--paper:#12171a;--card:#1a2125;--ink:#e6ebec;--quiet:#9ca9b0;--line:#2d373c;
--accent:#74c7cd;--soft:#1f3a3d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"PingFang SC","Microsoft YaHei","Noto Sans CJK SC",sans-serif}
.page{max-width:1020px;margin:0 auto;padding:28px 20px 48px}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 22px;margin:14px 0}
h1{font-size:28px;line-height:1.2;margin:0 0 6px}h2{font-size:16px;margin:0 0 10px}
p{margin:8px 0;color:var(--quiet);overflow-wrap:anywhere;max-width:80ch}
header{display:flex;gap:20px;align-items:flex-start;justify-content:space-between}
.language{position:absolute;opacity:0;pointer-events:none}
#language-en:checked~.page [lang="zh-Hans"],#language-zh:checked~.page [lang="en"]{display:none}
.switch{display:flex;flex:none;border:1px solid var(--line);border-radius:999px;overflow:hidden;background:var(--card)}
.switch label{padding:5px 14px;font-size:13px;color:var(--quiet);cursor:pointer;white-space:nowrap}
#language-en:checked~.page label[for="language-en"],#language-zh:checked~.page label[for="language-zh"]{
background:var(--soft);color:var(--ink)}
#language-en:focus-visible~.page .switch,#language-zh:focus-visible~.page .switch{outline:2px solid var(--accent)}
.scroll{overflow-x:auto}
table{width:100%;border-collapse:collapse;font-size:14px}
th,td{padding:7px 14px 7px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
thead th{color:var(--quiet);font-weight:500;font-size:12.5px}tbody tr:last-child>*{border-bottom:0}
.n{text-align:right;font-variant-numeric:tabular-nums}
code{font:12px ui-monospace,monospace;overflow-wrap:anywhere}td code{display:inline-block;min-width:16ch;max-width:34ch}
ul{padding-left:20px;margin:6px 0}li{overflow-wrap:anywhere}summary{cursor:pointer;color:var(--quiet)}
svg{display:block;margin:10px 0}
""".strip()
_PAGE = Template("""<!doctype html>
<html lang="$tag"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">
<title>$title</title><style>
$style
</style></head><body>$inputs<main class="page">
<header><div><h1>$heading</h1><p>$intro</p></div><nav class="switch">$switch</nav></header>
$sections
</main></body></html>
""")


def as_markdown(sections: Sequence[Section], intro: Words | None = None) -> str:
    """The card as Markdown, without pictures. `intro` takes the place of what is said of a run's."""
    parts = [f"# {_both(both('data.card_title'))}", _both(intro or both("data.card_intro"))]
    for section in sections:
        parts.append(f"## {_both(section.title)}")
        parts += [text for text in map(_markdown, section.parts) if text]
    return "\n\n".join(parts) + "\n"


def as_page(sections: Sequence[Section], intro: Words | None = None) -> str:
    """The card as one HTML page; the language in force is the one shown first."""
    title, first = both("data.card_title"), language()
    return _PAGE.substitute(
        tag=_TAGS[first],
        title=_both(title),
        style=_STYLE,
        inputs="".join(_input(each, checked=each == first) for each in LANGUAGES),
        heading=_shown(title),
        intro=_shown(intro or both("data.card_intro")),
        switch="".join(f'<label for="language-{each}">{_NAMES[each]}</label>' for each in LANGUAGES),
        sections="\n".join(map(_section, sections)),
    )


def _input(of: Language, *, checked: bool) -> str:
    """One side of the switch between languages; the style sheet does the rest."""
    state = " checked" if checked else ""
    return f'<input type="radio" name="language" id="language-{of}" class="language" aria-label="{_NAMES[of]}"{state}>'


def _both(words: Words) -> str:
    return " / ".join(dict.fromkeys(words[each] for each in LANGUAGES))


def _markdown(part: Part) -> str:
    if isinstance(part, Picture):
        return ""
    if isinstance(part, Bullets):
        return "\n".join(f"- {_both(line)}" for line in part.lines)
    if isinstance(part, Table):
        heads: list[Sequence[Cell]] = [part.columns, ["---"] * len(part.columns)]
        return "\n".join("| " + " | ".join(_cell(each) for each in row) + " |" for row in [*heads, *part.rows])
    return _both(part)


def _cell(value: Cell) -> str:
    return _text(value).replace("|", "\\|").replace("\n", " ")


def _text(value: Cell) -> str:
    if isinstance(value, Mapping):
        return _both(value)
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value


def _section(section: Section) -> str:
    return f"<section><h2>{_shown(section.title)}</h2>{''.join(map(_html, section.parts))}</section>"


def _html(part: Part) -> str:
    if isinstance(part, Picture):
        return part.svg
    if isinstance(part, Bullets):
        return f"<ul>{''.join(f'<li>{_shown(line)}</li>' for line in part.lines)}</ul>"
    if isinstance(part, Table):
        return _html_table(part)
    return f"<p>{_shown(part)}</p>"


def _html_table(table: Table) -> str:
    heads = "".join(f"<th{_side(table, place)}>{_shown(name)}</th>" for place, name in enumerate(table.columns))
    rows = "".join(
        f"<tr>{''.join(f'<td{_side(table, place)}>{_html_cell(value)}</td>' for place, value in enumerate(row))}</tr>"
        for row in table.rows
    )
    whole = f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    if len(table.rows) <= _MANY_ROWS:
        return whole
    return f"<details><summary>{_shown(both('card.whole_table', rows=len(table.rows)))}</summary>{whole}</details>"


def _side(table: Table, place: int) -> str:
    """Numbers stand to the right, and their heading with them."""
    cells = [row[place] for row in table.rows]
    return ' class="n"' if cells and all(map(_is_figure, cells)) else ""


def _is_figure(value: Cell) -> bool:
    return not isinstance(value, Mapping) and _text(value).rstrip("%").replace(",", "").replace(".", "").isdecimal()


def _html_cell(value: Cell) -> str:
    if isinstance(value, Mapping):
        return _shown(value)
    text = _text(value)
    if text.startswith("`") and text.endswith("`"):
        return f"<code>{html.escape(text.strip('`'))}</code>"
    return html.escape(text)


def _shown(words: Words) -> str:
    """The text of every language, of which the page shows one; a text that is the same appears once."""
    if len(set(words.values())) == 1:
        return html.escape(words[LANGUAGES[0]])
    return "".join(f'<span lang="{_TAGS[each]}">{html.escape(words[each])}</span>' for each in LANGUAGES)
