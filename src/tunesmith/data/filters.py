"""Rules that drop rows. Each is a test of a text or of a row; the first that is true names the reason.

A chat is judged by its last answer where a rule is about answers, and by every text of it where a rule is about faults.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example
from tunesmith.data.defects import Reason
from tunesmith.data.keys import prompt_key
from tunesmith.data.language import language_of
from tunesmith.data.table import to_examples
from tunesmith.data.texts import any_text
from tunesmith.recipe.specs.clean import FilterRule, FilterSpec

_PIECE = 10
_SHORT_TEXT = 40
"""Characters below which nobody can tell repetition or gibberish."""
_COMPRESSES = 0.5
"""Only what deflate halves is searched for repetition: 3 kB of English come down to 0.45, of Chinese to 0.65."""

# A text is an advertisement by two signs of different kinds; one alone stands in honest texts about selling, too.
_AD_SIGNS = (
    r"(?i)https?://|www\.|扫码|二维码|加(?:群|微信|vx|v信|我)|私聊|\bDM me\b|whatsapp",
    r"(?i)立即(?:抢购|购买|下单)|马上(?:抢购|下单)|限时(?:秒杀|特价|优惠|抢购)|秒杀|领红包|免费领|全场\d+折|包邮|buy now|order now|shop now"
    r"|limited[ -]time offer|act now|click here|click click|join (?:now|http)",
    r"(?i)日赚\d+|月入(?:过万|\d+)|兼职|刷单|躺赚|稳赚|代开发票|earn \$? ?\d+|\d+ ?% off|work from home|from home|no experience|free free"
    r"|make money|100% free|guaranteed (?:income|profit)",
    r"!{3}|！{3}|>>>|【广告】|\[ad\]|🔥{2}",
)  # fmt: skip
_LONGEST_AD = 400
_REFUSALS = (
    r"(?i)\bas an ai(?: language)?(?: model| assistant)?,? i(?:'m| am)? (?:cannot|can ?not|can't|can’t|unable|not able|do not|don't|don’t)",
    r"(?i)\bi(?:'m| am|’m) sorry,? (?:but )?(?:i|as an ai)\b.{0,40}(?:cannot|can't|can’t|unable|not able)",
    r"(?i)^i (?:cannot|can't|can’t|am unable to) (?:assist|help|fulfil|fulfill|comply|complete|provide|do that)",
    r"作为(?:一个|一名)?(?:人工智能|AI).{0,12}(?:无法|不能|没有能力)",
    r"(?:抱歉|对不起).{0,24}(?:无法|不能|没办法)(?:完成|回答|提供|协助|帮助|满足|处理|执行|访问)",
)
_LONGEST_REFUSAL = 300
_PLACEHOLDERS = (
    r"(?:^|[^\w}\\])\{\{\s*[A-Za-z_][A-Za-z_ ]{2,30}\}\}|(?i)\[(?:insert|your|enter) [^\]\n]{1,40}\]|<(?:insert|your|enter)[ _][^>\n]{1,40}>"
    r"|\bTODO\b|\bTBD\b|\bFIXME\b|lorem ipsum|【(?:请)?(?:填写|插入|在此)[^】\n]{0,20}】|此处(?:填写|插入|省略)|待补充"
)
_NO_ANSWER = r"(?i)^\s*(?:n/?a|null|none|nil|nan|undefined|无|暂无|空|-+|\.+|…+|。+|/)\s*[.。]?\s*$"
# Words after which no sentence ends: articles, prepositions, conjunctions, measure words.
_GOES_ON = (
    r"(?:[,，、:：;；(（\[{<+&=@#-]|\b(?i:a|an|the|of|and|or|but|to|in|on|at|for|from|with|by|as|is|are|was|were|be|that|which|who|if|when"
    r"|because|its|their|his|her|my|your|our|this|these|than|into|such|not)|[的和与及或在是把被将对从向为比让使给但而且因虽若如即其这那每各一两几])\s*$"
)
_SENTENCE_ENDS = r"[.。!！?？…][\"'”’」』)）\]】]*(?:\s|[^\x00-\x7f]|$)"
_ENDED = r"(?:[.。．!！?？…~～^|>%％*_`$\d\"'”’」』)）\]】}》〉:;]|\p{So}|\p{Emoji_Presentation})\s*$"


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
    tests = [(rule, test) for rule, test in _tests(spec).items() if rule in spec.rules]
    reason = pl.coalesce(pl.lit(None, pl.String), *(pl.when(test).then(pl.lit(REASONS[rule])) for rule, test in tests))
    found = frame.select("row", reason.alias("reason"))
    rest = frame.filter(found["reason"].is_null())
    slow = {
        "repetition": lambda: _repeats(rest, spec.max_repeated),
        "too_long": lambda: _too_many_tokens(rest, spec.max_tokens, count_tokens),
        "conflicting_answers": lambda: _conflicts(rest),
    }
    for (why,), rows in found.drop_nulls("reason").group_by("reason", maintain_order=True):
        ledger.decide(rows["row"], "dropped", str(why))
    for rule, rows_against in slow.items():
        if rule in spec.rules:
            against = rows_against()
            ledger.decide(against, "dropped", REASONS[rule])  # type: ignore[index]
            rest = rest.filter(~rest["row"].is_in(against.implode()))
    return rest


REASONS: Mapping[FilterRule, Reason] = {
    "broken_encoding": "broken_encoding",
    "gibberish": "gibberish",
    "repetition": "repetition",
    "advertising": "advertising",
    "too_short": "too_short",
    "too_long": "too_long",
    "truncated": "truncated_text",
    "language": "other_language",
    "refusal": "refusal",
    "placeholder": "placeholder_left",
    "conflicting_answers": "conflicting_answers",
}
"""What the ledger says of a row that a rule is against."""


def _tests(spec: FilterSpec) -> dict[FilterRule, pl.Expr]:
    answer, calls = _answer("content"), _answer("tool_calls").fill_null("") != ""
    said = answer.str.count_matches(r"[\p{L}\p{N}]")
    whole = pl.concat_str(
        "text", *(pl.col(name).list.eval(pl.element().struct.field("content")).list.join("\n") for name in _TURNS)
    )
    words = pl.col("kind") != "token_class"
    return {
        "broken_encoding": any_text(lambda text: text.str.contains("\ufffd|锟斤拷|[\ue000-\uf8ff]{2}")),
        "gibberish": any_text(_is_gibberish),
        "advertising": any_text(_is_advertising),
        "too_short": words & ~calls & (said < spec.min_characters),
        "too_long": words & (whole.str.len_chars() > spec.max_characters),
        "truncated": words & ~calls & _is_truncated(answer),
        "language": words & ~language_of(whole).is_in([*spec.languages, ""]),
        "refusal": answer.str.len_chars().le(_LONGEST_REFUSAL) & _any_of(answer, _REFUSALS),
        "placeholder": any_text(lambda text: text.str.contains(_PLACEHOLDERS) & ~text.str.contains("```", literal=True))
        | (words & ~calls & answer.str.contains(_NO_ANSWER)),
    }


_TURNS = ("messages", "chosen")


def _answer(field: str) -> pl.Expr:
    """What is learned last: the last turn of the conversation or of the chosen continuation, else the text."""
    last = {name: pl.col(name).list.last().struct.field(field) for name in _TURNS}
    text = pl.col("text") if field == "content" else pl.lit("")
    return pl.coalesce(last["chosen"], last["messages"], text)


def _any_of(text: pl.Expr, signs: Sequence[str]) -> pl.Expr:
    return pl.any_horizontal(*(text.str.contains(sign) for sign in signs))


def _is_gibberish(text: pl.Expr) -> pl.Expr:
    """Letters, digits and signs without words.

    Natural words are 3 to 10 characters long in the mean (Rae et al. 2021, 2112.11446, table A1); here 25 of them
    without a blank must be mixed with signs. Formulas, addresses of the web, JSON and East Asian texts are none.
    """
    written = text.str.count_matches(r"\S")
    pieces = text.str.count_matches(r"\S+")
    signs = text.str.count_matches(r"[^\p{L}\p{M}\p{N}\s]")
    runs = text.str.count_matches(r"(?i)[bcdfghjklmnpqrstvwxz]{5}")
    other = text.str.contains(r"\\[A-Za-z]|://|^\s*[\[{]|[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]|```")
    mixed = (written > 25 * pieces) & (signs > 0.05 * written)
    mashed = runs * 5 > 0.3 * written
    return (written >= _SHORT_TEXT) & ~other & (mixed | mashed)


def _is_advertising(text: pl.Expr) -> pl.Expr:
    signs = pl.sum_horizontal(*(text.str.contains(sign).cast(pl.Int8) for sign in _AD_SIGNS))
    return (signs >= 2) & (text.str.len_chars() <= _LONGEST_AD)


def _is_truncated(text: pl.Expr) -> pl.Expr:
    """It breaks off: at a word or sign after which something comes, or after whole sentences without an end.

    A last line that stands alone (a title, an item of a list) may have no full stop.
    """
    last_line = text.str.strip_chars().str.extract(r"([^\n]*)$", 1)
    several = last_line.str.count_matches(_SENTENCE_ENDS) >= 1
    titled = last_line.str.contains(r"[.。] ?[^.。,，!！?？]{2,40}$") & last_line.str.contains(r"\. \S")
    listed = last_line.str.contains(r"^\s*(?:[-*•·]|\d+[.)、])") | text.str.contains("```|~~~")
    open_end = ~last_line.str.contains(_ENDED)
    return open_end & (last_line.str.contains(_GOES_ON) | (several & ~titled & ~listed))


def _repeats(frame: pl.DataFrame, most: float) -> pl.Series:
    """Rows of which a text says too much of itself again."""
    rows = frame.filter(any_text(lambda text: text.str.len_chars() >= _SHORT_TEXT))
    against = [
        example.row
        for example in to_examples(rows)
        if any(repeated_share(text) > most for text in (example.text, *(turn.content for turn in example.messages)))
    ]
    return pl.Series("row", against, dtype=pl.Int64)


def repeated_share(text: str) -> float:
    """Share of a text's pieces of ten characters that stood in it before (2112.11446, duplicate n-grams)."""
    plain = text.encode()
    if len(text) < _SHORT_TEXT or len(zlib.compress(plain, 1)) > _COMPRESSES * len(plain):
        return 0.0
    pieces = [text[start : start + _PIECE] for start in range(len(text) - _PIECE + 1)]
    return 1 - len(set(pieces)) / len(pieces)


def _too_many_tokens(frame: pl.DataFrame, most: int | None, count_tokens: CountTokens | None) -> pl.Series:
    if most is None:
        return pl.Series("row", [], dtype=pl.Int64)
    if count_tokens is None:
        raise TunesmithError("data.nobody_counts_tokens")
    return frame["row"].filter(pl.Series(count_tokens(to_examples(frame)), dtype=pl.Int64) > most)


def _conflicts(frame: pl.DataFrame) -> pl.Series:
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
