"""What is mended, masked or removed in the rows' texts; everything here happens only where a recipe asks for it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.base import MOST, Spec

PiiAction = Literal["report", "mask", "drop"]
PiiType = Literal[
    "secret",
    "email",
    "id_card",
    "bank_card",
    "bank_account",
    "ssn",
    "phone",
    "passport",
    "ip",
    "plate",
    "wechat",
    "qq",
    "address",
    "name",
]
RepairRule = Literal[
    "mojibake",
    "html",
    "full_width",
    "emoji",
    "emoji_runs",
    "whitespace",
    "boilerplate",
    "simplified",
    "traditional",
]
FilterRule = Literal[
    "broken_encoding",
    "gibberish",
    "repetition",
    "advertising",
    "too_short",
    "too_long",
    "truncated",
    "language",
    "refusal",
    "placeholder",
    "conflicting_answers",
]
LanguageName = Literal["zh", "en", "other"]


class RepairSpec(Spec):
    """Rules that change texts; each row that one changed is counted in the ledger."""

    rules: list[RepairRule] = Field(
        ["mojibake", "full_width"],
        min_length=1,
        description="What is mended: wrong decoding, HTML, full width, emoji (all, or long runs), blanks, what sites "
        "append, Chinese into one script.",
    )
    max_emoji: int | None = Field(
        None, ge=1, le=100, description="emoji_runs: emoji in a row that stay; none stated: 3."
    )

    @model_validator(mode="after")
    def _takes_effect(self) -> Self:
        if {"simplified", "traditional"} <= set(self.rules):
            raise ValueError("two_scripts")
        if {"emoji", "emoji_runs"} <= set(self.rules):
            raise ValueError("emoji_twice")
        if self.max_emoji is not None and "emoji_runs" not in self.rules:
            raise ValueError("emoji_without_rule")
        return self


class FilterSpec(Spec):
    """Rules that drop rows; the reason stands in the ledger."""

    rules: list[FilterRule] = Field(min_length=1, description="Rows of which kinds are dropped.")
    min_characters: int = Field(
        5, ge=1, le=MOST, description="too_short: letters and digits that a row (of a chat: its answer) has at least."
    )
    max_characters: int = Field(20_000, ge=1, le=MOST, description="too_long: characters that a row has at most.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="too_long: tokens that a row has at most, as the model counts; none: not counted.",
    )
    max_repeated: float = Field(
        0.5,
        gt=0,
        le=1,
        description="repetition: share of a text, in pieces of ten characters, that stood in it before.",
    )
    languages: list[LanguageName] = Field(
        ["zh", "en"], min_length=1, description="language: those that stay; other is neither of the two."
    )


class PiiSpec(Spec):
    """Personal data: found by patterns and checksums, never written into any log, ledger or card."""

    action: PiiAction = Field("mask", description="Count it, mask it by placeholders, or drop rows that hold any.")
    types: list[PiiType] = Field(
        [], description="Types that are looked for; none named: all. Names are found behind words such as Contact:."
    )
    key: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$",
        description="Environment variable that holds a key of yours; placeholders and what they stand for are then "
        "kept, "
        "encrypted with it. None: masking cannot be undone.",
    )

    tagger: str | None = Field(
        None,
        min_length=1,
        description="Folder of a model that gives classes to tokens, one of them people (PER, person): it finds names "
        "anywhere. None: only those behind words such as Contact:.",
    )

    @model_validator(mode="after")
    def _takes_effect(self) -> Self:
        if self.key is not None and self.action != "mask":
            raise ValueError("key_without_masks")
        if self.tagger is not None and self.types and "name" not in self.types:
            raise ValueError("tagger_without_names")
        return self


class WordListSpec(Spec):
    """A list of words that you own."""

    path: str = Field(description="A UTF-8 text file with one word or phrase a line; relative to the recipe.")
    action: Literal["report", "drop"] = Field("report", description="Count rows that hold one of them, or drop them.")


class ContentSpec(Spec):
    """Sensitive or illegal content, by your own lists."""

    word_lists: list[WordListSpec] = Field(min_length=1, description="Lists, tried in this order.")
