"""Which language a text is in, by its script and its most frequent words: Chinese, English, or another."""

from __future__ import annotations

import polars as pl

_SHARE = 0.3
"""Of the characters written: Chinese text holds names and code, too (the data card counts alike)."""
_FEWEST = 20
"""Words (or characters of no known script) below which a text is too short to be told; it is then taken for English."""
_ENGLISH = r"(?i)\b(?:the|of|and|to|in|is|that|for|it|with|as|was|on|are|be|this|you|have|from|or|by|not|at|which|i)\b"
_OTHERS = (
    r"(?i)\b(?:der|die|das|und|ist|nicht|mit|ein|eine|auf|für|von|dem|den|le|la|les|des|et|est|une|dans|que|pour|qui|el|los|las"
    r"|y|en|una|por|con|del|se|il|di|che|è|per|non|um|uma|os|não|de|het|een|van|niet|och|att|det|som|jest|nie|się|na|do)\b"
)
"""The most frequent words of German, French, Spanish, Italian, Portuguese, Dutch, Swedish and Polish."""


def language_of(text: pl.Expr) -> pl.Expr:
    """`zh`, `en`, `other`, or nothing where no letter is written."""
    letters = text.str.count_matches(r"\p{L}")
    han = text.str.count_matches(r"\p{Han}")
    kana = text.str.count_matches(r"[\p{Hiragana}\p{Katakana}]")
    latin = text.str.count_matches(r"\p{Latin}")
    words = text.str.count_matches(r"\p{Latin}+")
    english, others = text.str.count_matches(_ENGLISH), text.str.count_matches(_OTHERS)
    is_chinese = (han >= _SHARE * letters) & (kana < 0.1 * han)
    is_english = (latin >= (1 - _SHARE) * letters) & ((words < _FEWEST) | (english >= others))
    return (
        pl.when(letters == 0)
        .then(pl.lit(""))
        .when(is_chinese)
        .then(pl.lit("zh"))
        .when(is_english)
        .then(pl.lit("en"))
        .otherwise(pl.lit("other"))
    )
