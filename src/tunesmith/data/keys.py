"""What makes two rows the same: the content key of a whole row and the key of what the user asks."""

from __future__ import annotations

import polars as pl

from tunesmith.data.table import BOX

_FIELD = "\x1f"
_TURN = "\x1e"
_PART = "\x1d"
BOX_PARTS = tuple(field.name for field in BOX.fields)
_NO_MEANING = r"[\s\p{P}\p{S}\p{C}]+"


def _turn_text() -> pl.Expr:
    turn = pl.element().struct
    return turn.field("role") + _FIELD + turn.field("content") + _FIELD + turn.field("tool_calls")


def content_key() -> pl.Expr:
    """Text that is equal exactly for rows that say the same (roles, contents, calls, tools, labels), blanks at the ends
    of a plain text apart.
    """
    turns = [pl.col(name).list.eval(_turn_text()).list.join(_TURN) for name in ("messages", "chosen", "rejected")]
    words = [pl.col(name).list.join(_TURN) for name in ("tokens", "labels")]
    liked = pl.col("label").cast(pl.String).fill_null("")
    text = pl.col("text").str.strip_chars()
    return pl.concat_str("kind", text, "tools", liked, *turns, *words, seen(), separator=_PART).alias("content_key")


def seen() -> pl.Expr:
    """What a row is about: the hash of its picture or sound, the boxes in it and shares of labels; "" for words."""
    parts = [pl.element().struct.field(name).cast(pl.String).fill_null("") for name in BOX_PARTS]
    boxes = pl.col("boxes").list.eval(pl.concat_str(*parts, separator=_FIELD)).list.join(_TURN).fill_null("")
    media = pl.col("media").struct.field("sha256")
    shares = pl.col("label_weights").cast(pl.List(pl.String)).list.join(_FIELD).fill_null("")
    shares = pl.when(shares == "").then(shares).otherwise(pl.concat_str(pl.lit(_PART), shares))
    return pl.when(media.is_null()).then(pl.lit("")).otherwise(pl.concat_str(media, pl.lit(_TURN), boxes, shares))


def said() -> pl.Expr:
    """What a row says: prompt and answers, calls included, but no system prompt, which many rows share."""
    said = pl.element().filter(pl.element().struct.field("role") != "system").struct
    turns = [
        pl.col(name).list.eval(said.field("content") + " " + said.field("tool_calls")).list.join("\n")
        for name in ("messages", "chosen", "rejected")
    ]
    return (
        pl.concat_str("text", pl.col("tokens").list.join(" "), *turns, separator="\n").str.strip_chars().alias("said")
    )


def answers() -> pl.Expr:
    """What the assistant says and calls in a row, rejected answers apart."""
    said = pl.element().filter(pl.element().struct.field("role") == "assistant").struct
    turns = [
        pl.col(name).list.eval(said.field("content") + " " + said.field("tool_calls")).list.join("\n")
        for name in ("messages", "chosen")
    ]
    return pl.concat_str(*turns, separator="\n").str.strip_chars().alias("answers")


def asked() -> pl.Expr:
    """The words that `prompt_key` makes a key of."""
    turns = (
        pl.col("messages")
        .list.eval(pl.element().filter(pl.element().struct.field("role") == "user").struct.field("content"))
        .list.join(_TURN)
    )
    return pl.concat_str(turns, "text", pl.col("tokens").list.join(" "), separator="").alias("asked")


def prompt_key() -> pl.Expr:
    """What the user says in all turns (or text, or tokens), without case, blanks, punctuation and symbols, NFKC.

    Where nothing is left of it the words stand as they are; a row without any keeps a key of its own. A row about a
    picture or a sound asks about that one, whatever is said of it.
    """
    words = asked()
    plain = words.str.normalize("NFKC").str.to_lowercase().str.replace_all(_NO_MEANING, "")
    bare = words.str.strip_chars()
    own = pl.format("row {}", "row")
    media = pl.col("media").struct.field("sha256")
    plain = pl.when(media.is_null()).then(plain).otherwise(pl.format("media {}", media))
    return pl.when(plain != "").then(plain).when(bare != "").then(bare).otherwise(own).alias("prompt_key")
