"""Chinese in one script, by OpenCC's phrase dictionaries."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import polars as pl

from tunesmith.core.errors import TunesmithError


def hint(text: pl.Expr) -> pl.Expr:
    """Whether a text is Chinese: Han characters, and no kana, whose Han characters are not Chinese ones."""
    return text.str.contains(r"\p{Han}") & ~text.str.contains(r"[\p{Hiragana}\p{Katakana}]")


def need_opencc(rule: str) -> None:
    """Errors: data.rule_needs_package."""
    if find_spec("opencc") is None:
        raise TunesmithError("data.rule_needs_package", setting=f"data.clean.repair: {rule}", package="opencc")


def to_simplified(texts: Sequence[str]) -> list[str]:
    """The texts in simplified characters; words stay as they are (`t2s`)."""
    return _converted(texts, "t2s")


def to_traditional(texts: Sequence[str]) -> list[str]:
    """The texts in traditional characters; words stay as they are (`s2t`)."""
    return _converted(texts, "s2t")


def _converted(texts: Sequence[str], direction: str) -> list[str]:
    import opencc

    converter = opencc.OpenCC(direction)
    return [converter.convert(text) for text in texts]
