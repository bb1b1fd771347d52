"""Answers that break off: what shows that a text does not end where its last line ends.

Every sign is one expression, so that a table of any size is judged in one pass. A mark of an end (a full stop, a
closing bracket, a digit, an emoji) settles that a text is whole, unless a code fence is still open.
"""

from __future__ import annotations

import polars as pl

from tunesmith.data import signs

_LEAST_WORDS = 8
"""Words of an English line that is a sentence; below that it may be a title, a name or an item of a list."""
_MANY = 20
"""Rows without an end from which on their writers' habit can be told."""
_CUT_SHARE = 1 / 3
"""Share of Chinese texts without an end that stop at a sign that goes on or seldom ends anything: some 0.6 of those cut
at any place, 0.2 where writers leave the last mark out (by answers of chats cut at random, and by whole reviews)."""


def is_truncated(answer: pl.Expr) -> pl.Expr:
    """Whether a text breaks off: inside a code fence, a bracket or a list whose other lines end, at a word or sign
    after which something comes, or in a sentence without an end.

    Where many Chinese texts of a table end without a mark, and not at such signs, that is a habit and no fault.
    """
    text = answer.str.strip_chars()
    last = text.str.extract(r"([^\n]*)$", 1).str.strip_chars()
    inside_code = text.str.count_matches("```", literal=True) % 2 == 1
    code = text.str.contains("```|~~~")
    chinese = last.str.contains(r"\p{Han}")
    titled = last.str.contains(signs.TITLE_BEHIND)
    open_end = ~last.str.contains(signs.ENDED)
    goes_on = open_end & last.str.contains(signs.GOES_ON)
    seldom = open_end & ~titled & last.str.contains(f"[{signs.SELDOM_LAST}]$")
    listed = last.str.contains(signs.LISTED)
    sentences = open_end & chinese & ~titled & ~listed & last.str.contains(signs.SENTENCE_ENDS)
    stops_oddly = goes_on | seldom | _bracket_open(last) | _unlike_other_lines(text, titled & chinese)
    habit = (sentences.sum() >= _MANY) & ((sentences & (goes_on | seldom)).sum() < _CUT_SHARE * sentences.sum())
    unfinished = stops_oddly | _running_english(last, listed) | (sentences & ~habit)
    return inside_code | goes_on | (open_end & ~code & unfinished)


def _bracket_open(last: pl.Expr) -> pl.Expr:
    """A bracket or a Chinese quotation mark of the last line that is never closed."""
    pairs = ((r"[(（]", r"[)）]"), (r"[「『《【\[]", r"[」』》】\]]"))
    return pl.any_horizontal(*(last.str.count_matches(a) > last.str.count_matches(b) for a, b in pairs))


def _unlike_other_lines(text: pl.Expr, titled: pl.Expr) -> pl.Expr:
    """The last of three lines or more, of which all others have an end."""
    lines = text.str.count_matches(r"(?m)\S[ \t]*$")
    ended = text.str.count_matches(signs.LINE_ENDED)
    return (lines >= 3) & (ended >= lines - 1) & ~titled


def _running_english(last: pl.Expr, listed: pl.Expr) -> pl.Expr:
    """A line of words, most of them in small letters, with words that only sentences have."""
    words = last.str.count_matches(r"\b\p{L}[\p{L}'’-]*")
    small = last.str.count_matches(r"\b\p{Ll}[\p{L}'’-]*")
    of_sentences = last.str.count_matches(signs.SENTENCE_WORDS) >= 2
    foreign = last.str.contains(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]")
    return (words >= _LEAST_WORDS) & (small >= 0.6 * words) & of_sentences & ~listed & ~foreign
