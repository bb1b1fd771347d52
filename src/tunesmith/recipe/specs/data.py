"""Where rows come from, how they are cleaned and how they are split."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tunesmith.core.types import RowKind
from tunesmith.recipe.specs.augment import AugmentSpec
from tunesmith.recipe.specs.base import LARGEST_SEED, MOST, Spec

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
]
Task = Literal["chat", "text_class", "token_class"]
ClassRows = Literal["text_class", "multi_label", "token_class"]
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
"""Name of one of several tasks: it also names files."""


class SourceSpec(Spec):
    """One file or folder of rows."""

    path: str = Field(description="A json, jsonl, csv or parquet file, or a folder of them; relative to the recipe.")
    name: str = Field("", description="Name in the ledger and in reports; the path when empty.")
    layout: Layout = Field("auto", description="How rows are laid out; auto looks at the columns.")
    columns: dict[str, str] = Field(
        {}, description="Tunesmith's column name to the file's, such as {prompt: question}."
    )
    sample: int | None = Field(
        None, ge=1, le=MOST, description="Take this many rows, drawn with the split's seed; none takes all."
    )
    licence: str = Field("", description="Licence of the rows, kept in the data card.")


class CleanSpec(Spec):
    """What is mended or removed before the split."""

    normalize: bool = Field(True, description="Unicode NFC, no control characters, line ends as \\n, outer blanks cut.")
    exact_duplicates: bool = Field(True, description="Merge rows whose content is the same.")


class SplitSpec(Spec):
    """Shares of rows by split; rows of one group or with one prompt never part."""

    train: float = Field(0.7, gt=0, lt=1, description="Share of rows for training.")
    validation: float = Field(0.15, gt=0, lt=1, description="Share of rows for choosing the best checkpoint.")
    test: float = Field(0.15, gt=0, lt=1, description="Share of rows seen only by the evaluation.")
    group_by: str | None = Field(None, description="Column whose equal values stay in one split.")
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="Seed of the split.")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("shares")
        return self


class DataSpec(Spec):
    """The rows of a run or of one stage."""

    unstated: ClassVar[frozenset[str]] = frozenset({"tasks"})

    task: Task = Field("chat", description="What the rows mean: conversations, texts or tokens that have classes.")
    rows: Literal["chat", "text", "preference", "kto", "text_class", "multi_label", "token_class"] = Field(
        "chat",
        description="Kind of rows the stage learns from; unless stated, the one that the task is named after. Texts of "
        "multi_label have any number of classes.",
    )
    tasks: dict[TaskName, ClassRows] | None = Field(
        None,
        description="Several tasks with classes on one body, each with a head and labels of its own: the name of a "
        "task's sources, and the kind of its rows; none: one task.",
    )
    sources: list[SourceSpec] = Field(min_length=1, description="Files and folders, read in this order.")
    validation_sources: list[SourceSpec] = Field(
        [], description="Given instead of cutting validation from the sources."
    )
    test_sources: list[SourceSpec] = Field([], description="Given instead of cutting test from the sources.")
    clean: CleanSpec = Field(CleanSpec(), description="Cleaning before the split.")
    split: SplitSpec = Field(SplitSpec(), description="Shares and groups of the split.")
    augment: AugmentSpec | None = Field(None, description="Rows made from the training rows; none: no such rows.")

    @model_validator(mode="before")
    @classmethod
    def _rows_of_the_task(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        tasks = values.get("tasks")
        if isinstance(tasks, dict) and "task" not in values:  # a model for texts can tag tokens too, not the reverse
            only_tokens = all(rows == "token_class" for rows in tasks.values())
            values = {**values, "task": "token_class" if only_tokens else "text_class"}
        if isinstance(values.get("task"), str) and "rows" not in values:
            return {**values, "rows": values["task"]}
        return values

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several classes, or none."""
        return self.rows == "multi_label"

    @property
    def kind(self) -> RowKind:
        """The form of a row: one with several classes is laid out like one with a single class."""
        return _form(self.rows)

    def kind_of(self, source: str) -> RowKind:
        """The form of the rows of a source, by its name."""
        return _form((self.tasks or {}).get(source, self.rows))


def _form(rows: RowKind | Literal["multi_label"]) -> RowKind:
    return "text_class" if rows == "multi_label" else rows
