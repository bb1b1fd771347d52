"""Rules that drop rows. Each is a test of a text or of a row; the first that is true names the reason.

A chat is judged by its last answer where a rule is about answers, and by every text of it where a rule is about faults.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, get_args

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example
from tunesmith.data import signs
from tunesmith.data.defects import Reason
from tunesmith.data.keys import prompt_key
from tunesmith.data.language import language_of
from tunesmith.data.table import to_examples
from tunesmith.data.texts import any_text
from tunesmith.data.truncation import is_truncated
from tunesmith.recipe.specs.clean import FilterRule, FilterSpec

_PIECE = 10
_SHORT_TEXT = 40
"""Characters below which nobody can tell repetition or gibberish."""
_COMPRESSES = 0.5
"""Only what deflate halves is searched for repetition: 3 kB of English come down to 0.45, of Chinese to 0.65."""


class CountTokens(Protocol):
    """Counts the tokens of rows as the model will see them."""

    def __call__(self, examples: Sequence[Example]) -> Sequence[int]:
        """Tokens of each row."""
        ...


def filter_rows(
    frame: pl.DataFrame, spec: FilterSpec | None, ledger: Ledger, count_tokens: CountTokens | None = None
) -> pl.DataFrame:
    """The rows that none of the recipe's rules is against; the others are dropped in the ledger with the reason.

    Errors: data.nobody_counts_tokens.
    """
    if spec is None or frame.is_empty():
        return frame
    reasons = (pl.when(test).then(pl.lit(reason)) for rule, reason, test in _tests(spec) if rule in spec.rules)
    found = frame.select("row", reason=pl.coalesce(pl.lit(None, pl.String), *reasons))
    for (why,), rows in found.drop_nulls("reason").group_by("reason", maintain_order=True):
        ledger.decide(rows["row"], "dropped", str(why))
    frame = frame.filter(found["reason"].is_null())
    for rule, slow in _SLOW.items():
        if rule in spec.rules:
            against = slow.rows(frame, spec, count_tokens)
            ledger.decide(against, "dropped", slow.reason)
            frame = frame.filter(~frame["row"].is_in(against.implode()))
    return frame


def _tests(spec: FilterSpec) -> list[tuple[FilterRule, Reason, pl.Expr]]:
    """Rules that one expression decides, with what the ledger says of the rows that they are against."""
    answer, calls = _answer("content"), _answer("tool_calls").fill_null("") != ""
    said = answer.str.count_matches(r"[\p{L}\p{N}]")
    contents = (pl.col(name).list.eval(pl.element().struct.field("content")).list.join("\n") for name in _TURNS)
    whole = pl.concat_str("text", *contents)
    speaks = (pl.col("kind") != "token_class") & ~calls
    refuses = answer.str.len_chars().le(signs.LONGEST_REFUSAL) & _any_of(answer, signs.REFUSALS)
    other = (pl.col("kind") != "token_class") & ~language_of(whole).is_in([*spec.languages, ""])
    return [
        ("broken_encoding", "broken_encoding", any_text(lambda text: text.str.contains(signs.LOST))),
        ("gibberish", "gibberish", any_text(_is_gibberish)),
        ("advertising", "advertising", any_text(_is_advertising)),
        ("placeholder", "empty_answer", speaks & answer.str.contains(signs.NO_ANSWER)),
        ("placeholder", "placeholder_left", any_text(_has_placeholder)),
        ("too_short", "too_short", speaks & (said < spec.min_characters)),
        ("too_long", "too_long", whole.str.len_chars() > spec.max_characters),
        ("truncated", "truncated_text", speaks & is_truncated(answer)),
        ("language", "other_language", other),
        ("refusal", "refusal", refuses),
    ]


def reasons_to_filter() -> frozenset[Reason]:
    """Every reason for which a filter drops rows."""
    rules = list(get_args(FilterRule))
    fast = {reason for _, reason, _ in _tests(FilterSpec(rules=rules, languages=["en"]))}
    return frozenset(fast | {slow.reason for slow in _SLOW.values()})


_TURNS = ("messages", "chosen")


def _answer(field: str) -> pl.Expr:
    """What is learned last: the last turn of the conversation or of the chosen continuation, else the text."""
    last = {name: pl.col(name).list.last().struct.field(field) for name in _TURNS}
    text = pl.col("text") if field == "content" else pl.lit("")
    return pl.coalesce(last["chosen"], last["messages"], text)


def _any_of(text: pl.Expr, patterns: Sequence[str]) -> pl.Expr:
    return pl.any_horizontal(*(text.str.contains(pattern) for pattern in patterns))


def _has_placeholder(text: pl.Expr) -> pl.Expr:
    return text.str.contains(signs.PLACEHOLDERS) & ~text.str.contains("```", literal=True)


def _is_gibberish(text: pl.Expr) -> pl.Expr:
    """Letters, digits and signs without words.

    Natural words are 3 to 10 characters long in the mean (Rae et al. 2021, 2112.11446, table A1); here 25 of them
    without a blank must be mixed with signs. Formulas, addresses of the web, JSON and East Asian texts are none.
    """
    written = text.str.count_matches(r"\S")
    pieces = text.str.count_matches(r"\S+")
    marks = text.str.count_matches(r"[^\p{L}\p{M}\p{N}\s]")
    runs = text.str.count_matches(r"(?i)[bcdfghjklmnpqrstvwxz]{5}")
    other = text.str.contains(r"\\[A-Za-z]|://|^\s*[\[{]|[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]|```")
    mixed = (written > 25 * pieces) & (marks > 0.05 * written)
    mashed = runs * 5 > 0.3 * written
    return (written >= _SHORT_TEXT) & ~other & (mixed | mashed)


def _is_advertising(text: pl.Expr) -> pl.Expr:
    found = pl.sum_horizontal(*(text.str.contains(sign).cast(pl.Int8) for sign in signs.AD_SIGNS))
    return (found >= 2) & (text.str.len_chars() <= signs.LONGEST_AD)


def _repeats(frame: pl.DataFrame, spec: FilterSpec, _count: CountTokens | None) -> pl.Series:
    """Rows of which a text says too much of itself again."""
    rows = frame.filter(any_text(lambda text: text.str.len_chars() >= _SHORT_TEXT))
    against = [
        example.row
        for example in to_examples(rows)
        if any(
            repeated_share(text) > spec.max_repeated
            for text in (example.text, *(turn.content for turn in example.messages))
        )
    ]
    return pl.Series("row", against, dtype=pl.Int64)


def repeated_share(text: str) -> float:
    """Share of a text's pieces of ten characters that stood in it before (2112.11446, duplicate n-grams)."""
    plain = text.encode()
    if len(text) < _SHORT_TEXT or len(zlib.compress(plain, 1)) > _COMPRESSES * len(plain):
        return 0.0
    pieces = [text[start : start + _PIECE] for start in range(len(text) - _PIECE + 1)]
    return 1 - len(set(pieces)) / len(pieces)


def _too_many_tokens(frame: pl.DataFrame, spec: FilterSpec, count_tokens: CountTokens | None) -> pl.Series:
    if spec.max_tokens is None:
        return pl.Series("row", [], dtype=pl.Int64)
    if count_tokens is None:
        raise TunesmithError("data.nobody_counts_tokens")
    return frame["row"].filter(pl.Series(count_tokens(to_examples(frame)), dtype=pl.Int64) > spec.max_tokens)


def _conflicts(frame: pl.DataFrame, _spec: FilterSpec, _count: CountTokens | None) -> pl.Series:
    """Rows that answer a question otherwise than another row does.

    Of those, an answer that is also given to another question is the wrong one; where none is, nobody can tell, and
    all of them go.
    """
    said = frame.filter(pl.col("kind") == "chat").select("row", prompt_key(), answer=_answer("content"))
    marked = said.with_columns(
        answers=pl.col("answer").n_unique().over("prompt_key"), questions=pl.col("prompt_key").n_unique().over("answer")
    ).filter(pl.col("answers") > 1)
    stray = (pl.col("questions") > 1) & (pl.col("answer").str.len_chars() >= _PIECE)
    return marked.filter(stray | ~stray.any().over("prompt_key"))["row"]


def drop_conflicting(made: pl.DataFrame, among: pl.DataFrame, spec: FilterSpec | None, ledger: Ledger) -> pl.DataFrame:
    """The made rows that answer no question otherwise than a row of `among` does, where the recipe has that rule."""
    if spec is None or "conflicting_answers" not in spec.rules or made.is_empty():
        return made
    answered = among.filter(pl.col("kind") == "chat").select(prompt_key(), known=_answer("content")).unique()
    asked = made.filter(pl.col("kind") == "chat").select("row", prompt_key(), answer=_answer("content"))
    against = asked.join(answered, on="prompt_key").filter(pl.col("known") != pl.col("answer"))["row"].unique().sort()
    reason: Reason = "conflicting_answers"
    ledger.decide(against, "dropped", reason)
    return made.filter(~pl.col("row").is_in(against.implode()))


@dataclass(frozen=True)
class _Slow:
    """A rule that takes more than an expression: the rows that it is against."""

    reason: Reason
    rows: Callable[[pl.DataFrame, FilterSpec, CountTokens | None], pl.Series]


_SLOW: Mapping[FilterRule, _Slow] = {
    "repetition": _Slow("repetition", _repeats),
    "too_long": _Slow("too_long", _too_many_tokens),
    "conflicting_answers": _Slow("conflicting_answers", _conflicts),
}
