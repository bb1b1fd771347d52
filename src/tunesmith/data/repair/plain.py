"""Repairs that one polars expression does: full-width letters, runs of blanks, sentences that sites append."""

from __future__ import annotations

import polars as pl

# U+FF10..FF19, FF21..FF3A, FF41..FF5A: digits and letters alone. Chinese punctuation of full width is no fault.
_WIDE = [
    chr(code)
    for first, last in ((0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A))
    for code in range(first, last + 1)
]
_NARROW = [chr(ord(each) - 0xFEE0) for each in _WIDE]
_WIDE_SIGN = "[\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff5e]"
_WIDE_SIGNS = [
    chr(code)
    for code in (*range(0xFF01, 0xFF10), *range(0xFF1A, 0xFF21), *range(0xFF3B, 0xFF41), *range(0xFF5B, 0xFF5F))
]
_NARROW_SIGNS = [chr(ord(each) - 0xFEE0) for each in _WIDE_SIGNS]
_EAST_ASIAN = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"
_RUN = r"(?:[^\S\n]*[\t\u3000\u00a0][^\S\n]*|[^\S\n]{2,})"
_CHINESE = r"([\p{Han}，。！？；：、])"
_RUN_IN_CHINESE = f"{_CHINESE}{_RUN}{_CHINESE}"
_CODE_OR_TABLE = r"(?m)```|^~~~|^\s*[\[{]|^(?: {4}|\t)|^\s*\|"
"""Blanks have a meaning in code, JSON, indented blocks and tables."""

# Sentences that sites set behind every text; found at its end alone, where they are no quotation.
_APPENDED = (
    r"(?:[（(【\[]?(?:转载请注明(?:出处|来源)|本文(?:来自|转自|转载自|来源于)(?:网络|互联网)|图片来源于网络)"
    r"[，,、。.；; ]*(?:侵删|如有侵权(?:请)?(?:联系)?(?:我们|作者)?(?:及时)?删除|版权归原作者所有|转载请注明(?:出处"
    r"|来源))?[。.）)】\]]*"
    r"|(?:Read|See|Learn) more (?:on|at|from) (?:our|the) (?:site|website|blog|page)[.!]?"
    r"|Share this (?:post|article|page|story)(?: with your friends| on \w+)?[.!]?"
    r"|(?:Click|Tap) here to (?:read|learn|see|subscribe|find out)\b[^.\n]{0,40}[.!]?"
    r"|(?:Subscribe|Sign up) (?:to|for) our (?:newsletter|mailing list|channel)[^.\n]{0,40}[.!]?"
    r"|(?:©|\(c\)|Copyright)[^\n]{0,60}All rights reserved\.?)\s*$"
)


def has_full_width(text: pl.Expr) -> pl.Expr:
    """Whether a text has a letter or a digit of full width."""
    return text.str.contains("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")


def half_width(text: pl.Expr) -> pl.Expr:
    """Letters and digits of full width as ASCII, points between them too.

    Other signs follow where nothing in the text is East Asian: there they are a fault as well.
    """
    letters = text.str.replace_many(_WIDE, _NARROW).str.replace_all(r"([0-9A-Za-z])．([0-9A-Za-z])", "$1.$2")
    signs = letters.str.replace_many(_WIDE_SIGNS, _NARROW_SIGNS).str.replace_all("\u3000", " ", literal=True)
    faulty = has_full_width(text) & ~text.str.contains("```", literal=True)  # in code they may be meant
    return pl.when(faulty & ~text.str.contains(_EAST_ASIAN)).then(signs).when(faulty).then(letters).otherwise(text)


def one_blank(text: pl.Expr) -> pl.Expr:
    """Runs of blanks as one, as none at the ends of lines and between Chinese characters, at most one empty line.

    A single blank between Chinese characters stays: it parts what is no sentence.
    """
    mended = (
        text.str.replace_all(_RUN_IN_CHINESE, "$1$2")
        .str.replace_all(_RUN_IN_CHINESE, "$1$2")  # a character between two runs belonged to the first
        .str.replace_all(_RUN, " ")
        .str.replace_all(r" *\n", "\n")
        .str.replace_all(r"\n{3,}", "\n\n")
        .str.strip_chars()
    )
    return pl.when(text.str.contains(_CODE_OR_TABLE)).then(text).otherwise(mended)


def without_appendix(text: pl.Expr) -> pl.Expr:
    """The text without a sentence that a site appended; one that is nothing else stays."""
    cut = text.str.replace(_APPENDED, "")
    return pl.when((cut == text) | (cut == "")).then(text).otherwise(cut.str.strip_chars_end())
