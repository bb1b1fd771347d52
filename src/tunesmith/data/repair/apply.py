"""Repairs of a table in a fixed order, however a recipe lists them; each row that one changed is in the ledger.

A repair gives the table back, and the numbers of the rows that it changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.data.repair import emoji, html, mojibake, plain, script
from tunesmith.data.texts import any_text, changed_rows, each_text, rewrite_texts
from tunesmith.recipe.specs.clean import RepairRule, RepairSpec


@dataclass(frozen=True)
class _Batch:
    """A repair that Python does, in rows whose texts have the hint."""

    hint: Callable[[pl.Expr], pl.Expr]
    change: Callable[[Sequence[str]], Sequence[str]]

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        flagged = frame.select(any_text(self.hint).alias("flagged"))["flagged"]
        mended = rewrite_texts(frame, flagged, self.change)
        return mended, changed_rows(frame.filter(flagged), mended.filter(flagged))


@dataclass(frozen=True)
class _Column:
    """A repair that one expression does."""

    change: Callable[[pl.Expr], pl.Expr]

    def apply(self, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        mended = frame.with_columns(each_text(self.change))
        return mended, changed_rows(frame, mended)


_BEFORE: dict[RepairRule, _Batch | _Column] = {"mojibake": _Batch(mojibake.hint, mojibake.mend_all)}
"""Before Unicode is normalised: the control characters that this takes away are bytes of misread texts."""


def _after(spec: RepairSpec) -> dict[RepairRule, _Batch | _Column]:
    return {
        "html": _Batch(html.hint, html.to_text_all),
        "full_width": _Column(plain.half_width),
        "emoji": _Batch(emoji.hint, emoji.remove_all),
        "emoji_runs": _Batch(emoji.hint, emoji.shortening(spec.max_emoji)),
        "boilerplate": _Column(plain.without_appendix),
        "whitespace": _Column(plain.one_blank),
        "simplified": _Batch(script.hint, script.to_simplified),
        "traditional": _Batch(script.hint, script.to_traditional),
    }


def check_packages(spec: RepairSpec | None) -> None:
    """Refuse rules whose package is missing, before anything is read. Errors: data.rule_needs_package."""
    rules = spec.rules if spec else []
    if "mojibake" in rules:
        mojibake.need_ftfy()
    for rule in rules:
        if rule in ("simplified", "traditional"):
            script.need_opencc(rule)


def repair_encoding(frame: pl.DataFrame, spec: RepairSpec | None, ledger: Ledger) -> pl.DataFrame:
    """What has to come before normalising."""
    return frame if spec is None else _repair(frame, spec, _BEFORE, ledger)


def repair_texts(frame: pl.DataFrame, spec: RepairSpec | None, ledger: Ledger) -> pl.DataFrame:
    """What comes after it."""
    return frame if spec is None else _repair(frame, spec, _after(spec), ledger)


def _repair(
    frame: pl.DataFrame, spec: RepairSpec, rules: dict[RepairRule, _Batch | _Column], ledger: Ledger
) -> pl.DataFrame:
    for name, rule in rules.items():
        if name in spec.rules and len(frame):
            frame, changed = rule.apply(frame)
            ledger.change(changed, name)
    return frame
