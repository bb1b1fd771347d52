"""The mask X-ray: tokens and what is trained of them, in colour, for the terminal and as a page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from rich.text import Text

from tunesmith.messages import both, say
from tunesmith.tasks.base import Encoded, Task
from tunesmith.tasks.classes import ClassTask
from tunesmith.tasks.mask_gate import SourceShare

_TRAINED_STYLE = "black on green"
_END_STYLE = "bold white on blue"
_READ_STYLE = "grey50"
_LONGEST_SPLIT = 8
"""Tokens that may stand for one run of split characters; more are bytes that never become text."""
_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
"""Control characters as pictures: what a row holds must not steer the terminal."""


@dataclass(frozen=True)
class Piece:
    """One token as it can be shown: its text, its loss weight, and whether it ends a turn."""

    text: str
    weight: float
    ends: bool


def pieces(task: Task, item: Encoded) -> list[Piece]:
    """The tokens of a row with their weights. Tokens that split a character are shown together, if they weigh alike."""
    shown: list[Piece] = []
    waiting: list[int] = []
    features = item.features
    for place, (token, weight) in enumerate(zip(features.token_ids, features.weights, strict=True)):
        waiting.append(token)
        text = str(task.tokenizer.decode(waiting, skip_special_tokens=False))
        following = features.token_ids[place + 1 : place + 2]
        alike = following and features.weights[place + 1] == weight and following[0] not in task.end_token_ids
        if alike and len(waiting) < _LONGEST_SPLIT and _ends_within_character(task, waiting, text):
            continue
        shown.append(Piece(text, weight, token in task.end_token_ids))
        waiting = []
    return shown


def _ends_within_character(task: Task, token_ids: list[int], text: str) -> bool:
    """Whether bytes are missing behind these tokens: their text then has a replacement that they do not spell."""
    if not text.endswith("\ufffd"):
        return False
    spelled = task.tokenizer.tokenize(text, add_special_tokens=False)
    return "".join(spelled) != "".join(task.tokenizer.convert_ids_to_tokens(token_ids))


def as_terminal_text(task: Task, item: Encoded) -> Text:
    """One row for the terminal: green is trained, blue is a trained end token, grey is only read."""
    text = Text()
    for piece in pieces(task, item):
        style = _READ_STYLE if not piece.weight else _END_STYLE if piece.ends else _TRAINED_STYLE
        text.append(piece.text.translate(_VISIBLE).replace("\n", "⏎\n"), style)
    return text


def heading(task: Task, item: Encoded) -> str:
    """The number of a row, and its classes where the task has some."""
    number, found = f"#{item.features.row}", item.features.classes
    if not isinstance(task, ClassTask):
        return number
    return f"{number}  {'  '.join(', '.join(task.head.labels[each] for each in classes) or '-' for classes in found)}"


def share_lines(sources: Mapping[str, SourceShare]) -> list[str]:
    """A line a source: rows, tokens, share of trained tokens, cut tokens."""
    return [
        say("tasks.share_line", source=name, rows=one.rows, tokens=one.tokens, share=f"{one.share:.1%}", cut=one.cut)
        for name, one in sources.items()
    ]


_PAGE = Template(Path(__file__).with_name("xray_page.html").read_text("utf-8"))


def as_page(task: Task, items: Sequence[Encoded], sources: Mapping[str, SourceShare]) -> str:
    """A page of rows with their masks and the shares by source, in both languages, without scripts."""
    legend = both("tasks.xray_legend")
    table = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{one.rows}</td><td>{one.tokens}</td><td>{one.trained}</td>"
        f"<td>{one.share:.1%}</td><td>{one.cut}</td></tr>"
        for name, one in sources.items()
    )
    rows = "".join(
        f"<h3>{html.escape(heading(task, item).translate(_VISIBLE))}</h3><pre>{_marked(task, item)}</pre>"
        for item in items
    )
    return _PAGE.substitute(
        title="X-ray · 掩码透视", legend_en=legend["en"], legend_zh=legend["zh"], table=table, rows=rows
    )


def _marked(task: Task, item: Encoded) -> str:
    marked: list[str] = []
    for piece in pieces(task, item):
        text = html.escape(piece.text)
        kind = "end" if piece.ends else "partial" if piece.weight != 1 else ""
        marked.append(f'<b class="{kind}">{text}</b>' if piece.weight else text)
    return "".join(marked)
