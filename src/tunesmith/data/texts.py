"""The texts of a row: what rules look at and change. Roles, labels, weights and calls of functions are no texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import polars as pl

from tunesmith.core.types import Example, Message
from tunesmith.data.table import TURN_COLUMNS, from_examples, to_examples


def any_text(test: Callable[[pl.Expr], pl.Expr], turns: Iterable[str] = TURN_COLUMNS) -> pl.Expr:
    """Whether a test is true of any text of a row, of the columns of turns named."""
    in_turns = [pl.col(name).list.eval(test(pl.element().struct.field("content"))).list.any() for name in turns]
    return pl.any_horizontal(test(pl.col("text")), *in_turns).fill_null(False)


def each_text(change: Callable[[pl.Expr], pl.Expr]) -> list[pl.Expr]:
    """Columns in which every text of a row has been changed by an expression."""
    return [change(pl.col("text")).alias("text"), *each_turn(change)]


def each_turn(change: Callable[[pl.Expr], pl.Expr]) -> list[pl.Expr]:
    """Columns in which every turn of a row has been changed by an expression."""
    content = change(pl.field("content")).alias("content")
    return [pl.col(name).list.eval(pl.element().struct.with_fields(content)) for name in TURN_COLUMNS]


def changed_rows(before: pl.DataFrame, after: pl.DataFrame) -> pl.Series:
    """Numbers of the rows whose texts differ; both tables hold the same rows in the same order."""
    if before.is_empty():
        return before["row"]
    differs = [before[name].ne_missing(after[name]) for name in ("text", *TURN_COLUMNS)]
    return before["row"].filter(pl.select(pl.any_horizontal(*differs)).to_series())


def rewrite_rows(
    frame: pl.DataFrame, flagged: pl.Series, rewrite: Callable[[Sequence[Example]], Sequence[Example]]
) -> pl.DataFrame:
    """The table with the flagged rows put through a function of examples; the others are not touched."""
    if not flagged.any():
        return frame
    rewritten = from_examples(list(rewrite(to_examples(frame.filter(flagged)))))
    places = pl.Series("place", range(len(frame)))
    parts = [
        frame.filter(~flagged).with_columns(places.filter(~flagged)),
        rewritten.with_columns(places.filter(flagged)),
    ]
    return pl.concat(parts).sort("place").select(frame.columns)


def rewrite_texts(
    frame: pl.DataFrame, flagged: pl.Series, change: Callable[[Sequence[str]], Sequence[str]]
) -> pl.DataFrame:
    """The table with the texts of the flagged rows put through a function of many texts at once."""

    def rewrite(examples: Sequence[Example]) -> list[Example]:
        texts = iter(change([text for example in examples for text in texts_of(example)]))
        return [with_texts(example, texts) for example in examples]

    return rewrite_rows(frame, flagged, rewrite)


def texts_of(example: Example) -> list[str]:
    """The texts of a row, in the order in which `with_texts` takes them."""
    turns = (*example.messages, *example.chosen, *example.rejected)
    return [example.text, *(turn.content for turn in turns)]


def with_texts(example: Example, texts: Iterator[str]) -> Example:
    """The row with its texts replaced by the next ones."""

    def turns(stated: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(replace(turn, content=next(texts)) for turn in stated)

    return replace(
        example,
        text=next(texts),
        messages=turns(example.messages),
        chosen=turns(example.chosen),
        rejected=turns(example.rejected),
    )
