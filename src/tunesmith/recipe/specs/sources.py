"""One source of rows: files, a place on a hub or in an object store, or the query of a database."""

from __future__ import annotations

import hashlib
from datetime import date
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.secrets import without_secrets
from tunesmith.recipe.specs.base import MOST, Spec

Layout = Literal[
    "auto",
    "alpaca",
    "sharegpt",
    "messages",
    "prompt_completion",
    "query_response",
    "text",
    "preference",
    "kto",
    "text_class",
    "token_class",
    "request_log",
    "feedback",
    "image_folder",
    "audio_folder",
    "coco",
    "voc",
    "label_studio",
    "argilla",
]
Encoding = Literal[
    "utf-8",
    "utf-16-le",
    "utf-16-be",
    "gb18030",
    "big5",
    "big5hkscs",
    "shift_jis",
    "euc_jp",
    "euc_kr",
    "latin-1",
    "cp1250",
    "cp1251",
    "cp1252",
    "koi8-r",
]
FROM_ENVIRONMENT = r"env:[A-Za-z_][A-Za-z0-9_]*"


class TermsSpec(Spec):
    """What the people behind the rows agreed to; rows outside of it are dropped with a reason."""

    unstated: ClassVar[frozenset[str]] = frozenset({"retention_days", "undated"})
    consent: str | None = Field(
        None, min_length=1, description="Column that must say yes (true, 1, yes); any other value, or none, is a no."
    )
    time: str | None = Field(
        None, min_length=1, description="Column with the time of the row: ISO 8601, or seconds since 1970 (UTC)."
    )
    since: str | None = Field(
        None,
        pattern=r"^\d{4}-\d\d-\d\d$",
        description="Oldest day that may still be used, such as 2026-01-31 (UTC); a row without a time is too old.",
    )
    retention_days: int | None = Field(
        None,
        ge=0,
        le=36_500,
        description="Days that a row may be kept after its time, held against the day of reading (UTC).",
    )
    undated: Literal["drop", "keep"] | None = Field(
        None,
        description="Rows without a time that can be read, beside retention_days: left out or used; none: an error.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        dated = self.since is not None or self.retention_days is not None
        if (self.time is None) == dated or (self.consent is None and not dated):
            raise ValueError("terms")
        if self.undated is not None and (self.retention_days is None or self.since is not None):
            raise ValueError("terms_undated")
        if self.since is not None:
            try:
                date.fromisoformat(self.since)
            except ValueError as error:
                raise ValueError("terms_day") from error
        return self


class SourceSpec(Spec):
    """One file or folder of rows, one place on a hub or in an object store, or one query of a database."""

    unstated: ClassVar[frozenset[str]] = frozenset(
        {"query", "database", "encoding", "chunk_size", "terms", "question", "split", "licence_column", "sheet"}
    )

    path: str = Field(
        "",
        description="File or folder of rows or texts, relative to the recipe; or hf://datasets/OWNER/NAME@REVISION, "
        "modelscope://OWNER/NAME@REVISION, s3://BUCKET/KEY.",
    )
    query: str | None = Field(
        None, min_length=1, description="SQL that only reads, in place of a path; its rows are kept and hashed."
    )
    database: str | None = Field(
        None,
        pattern=rf"^(?:{FROM_ENVIRONMENT}|[^:]+\.(?:db|sqlite|sqlite3|duckdb))$",
        description="env:NAME, the variable that holds the URL of a PostgreSQL, MySQL, SQLite or DuckDB database; or a "
        "file of one of the last two.",
    )
    split: str | None = Field(
        None,
        pattern=r"^\w[\w.]*$",
        description="Which split is read of a place whose files are named after several, such as train in "
        "train-00000-of-00002.parquet; none: they are of one.",
    )
    name: str = Field("", description="Name in the ledger and in reports; the path when empty.")
    layout: Layout = Field("auto", description="How rows are laid out; auto looks at the columns.")
    columns: dict[str, str] = Field(
        {},
        description="Tunesmith's column name to the file's, such as {prompt: question}; a part of an object by "
        "a dot, such as {text: data.review}.",
    )
    question: str | None = Field(
        None,
        min_length=1,
        description="Label Studio and Argilla: the question whose answers are learned; none is the only one that fits.",
    )
    sample: int | None = Field(
        None, ge=1, le=MOST, description="Take this many rows, drawn with the split's seed; none takes all."
    )
    licence: str = Field("", description="Licence of the rows, kept in the data card.")
    licence_column: str | None = Field(
        None,
        min_length=1,
        description="Column with the licence of each row, which goes before the source's; a row without one has that.",
    )
    encoding: Encoding | None = Field(
        None, description="Encoding of text files; none finds UTF-8, marks, UTF-16, GB18030 and Big5."
    )
    chunk_size: int | None = Field(
        None, ge=100, le=1_000_000, description="Characters of a row cut from a document; none is 2000."
    )
    sheet: str | None = Field(
        None, min_length=1, description="The sheet that is read of a workbook; none reads every visible one."
    )
    terms: TermsSpec | None = Field(
        None, description="Consent and age of rows that may be used; none asks for neither."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.query is None) != (self.database is None) or bool(self.path) == bool(self.query):
            raise ValueError("source_place")
        if self.query is not None and self.split is not None:
            raise ValueError("source_split")
        return self

    @property
    def address(self) -> str:
        """Where the rows come from, in words that hold no secret."""
        if self.query is None:
            return without_secrets(self.path)
        return f"{self.database}#{hashlib.sha256(self.query.encode()).hexdigest()[:8]}"

    @property
    def title(self) -> str:
        """What the ledger and reports call the source."""
        return without_secrets(self.name) or self.address
