"""HTML to text: known tags go, blocks become lines, entities become characters; code and unknown marks stay."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import polars as pl

_BLOCKS = (
    "address|article|aside|blockquote|body|br|caption|center|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]"
    "|head|header|hr|html|li|main|nav|ol|option|p|pre|section|table|tbody|tfoot|thead|title|tr|ul"
)
_INLINE = (
    "a|abbr|acronym|b|base|bdo|big|button|cite|code|col|colgroup|del|dfn|em|embed|font|i|iframe|img|input|ins|kbd|label"
    "|link|mark|meta|nobr|noscript|object|param|picture|q|samp|select|small|source|span|strike|strong|sub|sup|svg"
    "|td|textarea|th|time|tt|u|var|video|wbr"
)
# After the name stands nothing, or attributes with a value: "a <b and c> d" is no tag.
_ATTRIBUTES = (
    r"(?:\s+[A-Za-z_:@][\w:.\-]*(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>=]+))"
    r"|\s+(?:checked|disabled|selected|nowrap|noshade|hidden|async|defer))*"
)
_TAG = re.compile(
    rf"<(?P<close>/)?(?:(?P<block>{_BLOCKS})|(?P<inline>{_INLINE}|script|style)){_ATTRIBUTES}\s*/?>", re.IGNORECASE
)
# Parts of a page that are not what it says, and what browsers do not show.
_UNSEEN = re.compile(
    r"<(head|nav|footer|script|style|noscript|template|svg)\b[^<>]*>[\s\S]*?</\1\s*>|<!--[\s\S]*?-->|<!DOCTYPE[^<>]*>",
    re.IGNORECASE,
)
_SURE = re.compile(
    rf"</(?:{_BLOCKS}|{_INLINE}|script|style)\s*>|<(?:br|hr|p|li|img)\b[^<>]*>|<!--|<!doctype", re.IGNORECASE
)
"""A closing tag, or one that needs none: `#include <link>` and `Vec<u>` are no HTML."""
_BREAK = "\x00"
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_CODE = re.compile(r"(```[\s\S]*?(?:```|\Z)|(?m:^)~~~[\s\S]*?(?:~~~|\Z)|`[^`\n]+`)")
_HINT = rf"(?i)</?(?:{_BLOCKS}|{_INLINE}|script|style)(?:\s|/?>)|<!--|<!doctype|&#[0-9a-fx]+;|&[a-z][a-z0-9]{{1,31}};"


def hint(text: pl.Expr) -> pl.Expr:
    """Whether a text may hold tags or entities."""
    return text.str.contains(_HINT)


def to_text_all(texts: Sequence[str]) -> list[str]:
    """The texts without HTML; what stands in code (fences, single backticks) and what is JSON is left as it is."""
    return [text if _is_json(text) else _to_text(text) for text in texts]


def _to_text(text: str) -> str:
    parts = [part if place % 2 else _part(part) for place, part in enumerate(_CODE.split(text))]
    lines = re.sub(rf"[ \t]*\n?[ \t]*{_BREAK}[\s{_BREAK}]*", "\n", "".join(parts))
    return lines.strip("\n") if lines != text else text


def _is_json(text: str) -> bool:
    return text.strip()[:1] in ("{", "[") and text.strip()[-1:] in ("}", "]")


def _part(text: str) -> str:
    """What is no code, with a mark where a block begins or ends."""
    if _SURE.search(text):
        text = _TAG.sub(_instead, _UNSEEN.sub("", text))
    # Entities last, and once: &lt;p&gt; is a text about a tag.
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def _instead(tag: re.Match[str]) -> str:
    if tag["block"]:
        return _BREAK
    return " " if tag["inline"].lower() in ("td", "th") and tag["close"] else ""
