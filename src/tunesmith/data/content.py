"""Sensitive or illegal content by the user's own lists of words. A word found is never repeated anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import user_path
from tunesmith.core.ledger import Ledger
from tunesmith.data.defects import Reason
from tunesmith.data.table import to_examples
from tunesmith.data.texts import any_text, texts_of
from tunesmith.recipe.specs.clean import ContentSpec, WordListSpec


@dataclass(frozen=True)
class WordList:
    """A list as it was read: words of Latin letters count as whole words, all others wherever they stand."""

    spec: WordListSpec
    words: tuple[str, ...]
    whole_words: re.Pattern[str] | None
    anywhere: tuple[str, ...]

    def holds(self, text: str) -> bool:
        """Whether a text has one of the words, whatever their case."""
        lowered = text.casefold()
        if any(word in lowered for word in self.anywhere):
            return True
        return self.whole_words is not None and bool(self.whole_words.search(lowered))


@dataclass(frozen=True)
class Listed:
    """Rows of a split that hold a word of a list."""

    path: str
    action: str
    split: str
    rows: int


def read_lists(spec: ContentSpec | None, folder: Path) -> list[WordList]:
    """The lists of a recipe. Blank lines and lines that begin with # say nothing. Errors: data.bad_word_list."""
    return [_read(each, folder) for each in (spec.word_lists if spec else [])]


def _read(spec: WordListSpec, folder: Path) -> WordList:
    try:
        lines = user_path(spec.path, folder).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TunesmithError("data.bad_word_list", path=spec.path) from error
    words = tuple(dict.fromkeys(line.strip().casefold() for line in lines if line.strip() and not line.startswith("#")))
    if not words:
        raise TunesmithError("data.bad_word_list", path=spec.path)
    whole = [word for word in words if re.fullmatch(r"[\x00-\x7f\u00c0-\u024f]+", word)]
    pattern = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, sorted(whole, key=len, reverse=True))) + r")(?!\w)")
    return WordList(spec, words, pattern if whole else None, tuple(word for word in words if word not in set(whole)))


def apply_lists(
    frame: pl.DataFrame, lists: list[WordList], split: str, ledger: Ledger
) -> tuple[pl.DataFrame, list[Listed]]:
    """The table without rows that a list drops, and how many rows each list found."""
    found: list[Listed] = []
    for each in lists:
        hint = any_text(lambda text, each=each: text.str.to_lowercase().str.contains_any(list(each.words)))  # type: ignore[misc]
        flagged = to_examples(frame.filter(hint))
        rows = [row.row for row in flagged if any(map(each.holds, texts_of(row)))]
        found.append(Listed(each.spec.path, each.spec.action, split, len(rows)))
        if each.spec.action == "drop":
            reason: Reason = "listed_content"
            ledger.decide(rows, "dropped", reason)
            frame = frame.filter(~frame["row"].is_in(rows))
    return frame, found
