"""Emoji taken out, or runs of them made shorter, as Unicode knows emoji (Unicode Technical Standard 51, version of the
regex tables of polars).

An emoji is what is shown as a picture: a sequence of joined ones (families, professions), one with a skin tone, a flag
of two letters or of tags, a keycap, or a sign that variation selector 16 asks to show as one. What is shown as a sign
is none: digits, #, * and ©, ™, ☎ or ✔ alone, and whatever variation selector 15 asks to show as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, partial

import polars as pl

LONGEST_RUN = 3
"""Emoji in a row that stay where a recipe states no number: of 319 runs in reviews, chats and questions of people, one
was longer."""
_JOINER, _AS_TEXT, _AS_PICTURE, _KEYCAP = "\u200d", "\ufe0e", "\ufe0f", "\u20e3"
_TAGS = "[\U000e0020-\U000e007e]+\U000e007f"
_HINT = (
    rf"\p{{Emoji_Presentation}}|[{_AS_PICTURE}{_KEYCAP}]|\p{{Extended_Pictographic}}[{_JOINER}\x{{1F3FB}}-\x{{1F3FF}}]"
)
_LAST_CODE = 0x1FFFF
"""Behind it Unicode has no emoji but tags."""
_EAST_ASIAN = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")


def hint(text: pl.Expr) -> pl.Expr:
    """Whether a text may hold an emoji."""
    return text.str.contains(_HINT)


def remove_all(texts: Sequence[str]) -> list[str]:
    """The texts without emoji. Blanks on both sides of one become one; Latin words that it parted get a blank."""
    runs = re.compile(rf"(?P<before> *)(?:{_one()})(?: *(?:{_one()}))*(?P<behind> *)")
    return [runs.sub(_gap, text) for text in texts]


def shorten_all(texts: Sequence[str], longest: int) -> list[str]:
    """The texts with the first `longest` emoji of every run, be there blanks between them or not."""
    runs = re.compile(rf"(?P<kept>(?:{_one()})(?: *(?:{_one()})){{{longest - 1}}})(?: *(?:{_one()}))+")
    return [runs.sub(r"\g<kept>", text) for text in texts]


def shortening(longest: int | None) -> partial[list[str]]:
    """`shorten_all` to what a recipe states."""
    return partial(shorten_all, longest=longest or LONGEST_RUN)


def _gap(run: re.Match[str]) -> str:
    """What stands in place of a run and the blanks around it."""
    before, behind = run.string[: run.start()][-1:], run.string[run.end() :][:1]
    if before in ("", "\n"):
        return run["before"]  # how far the line is indented
    if behind in ("", "\n"):
        return ""
    parts_words = all(each.isalnum() and not _EAST_ASIAN.match(each) for each in (before, behind))
    return " " if run["before"] or run["behind"] or parts_words else ""


@cache
def _one() -> str:
    """A pattern of one emoji (UTS 51, ED-17: flags, keycaps, joined sequences; unqualified ones are known as well)."""
    shown, able, pictured, toned = (
        _class(name) for name in ("Emoji_Presentation", "Emoji", "Extended_Pictographic", "Emoji_Modifier_Base")
    )
    flag_letter, tone = _class("Regional_Indicator"), _class("Emoji_Modifier")
    unit = f"(?:{toned}{tone}|{able}{_AS_PICTURE}|{shown}(?!{_AS_TEXT}))"
    joined = f"{_JOINER}(?:{unit}|{pictured})"
    return (
        f"{flag_letter}{flag_letter}|[0-9#*]{_AS_PICTURE}?{_KEYCAP}"
        f"|{unit}(?:{_TAGS})?(?:{joined})*|{pictured}(?:{joined})+"
    )


def _class(name: str) -> str:
    """The characters with a property of Unicode, as a class for Python's patterns, which know no properties."""
    codes = [code for code in range(0x20, _LAST_CODE) if not 0xD800 <= code < 0xE000]
    letters = pl.Series([chr(code) for code in codes])
    found = pl.Series(codes).filter(letters.str.contains(rf"^\p{{{name}}}$"))
    first = found.diff().fill_null(0) != 1
    bounds = found.to_frame("code").group_by(first.cum_sum().alias("run"), maintain_order=True).agg(
        first=pl.col("code").first(), last=pl.col("code").last()
    )  # fmt: skip
    return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for _, low, high in bounds.iter_rows()) + "]"
