"""Where rows come from, how they are cleaned and how they are split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import Field, StringConstraints, model_validator

from tunesmith.core.types import RowKind, SplitName
from tunesmith.recipe.specs.augment import AugmentSpec
from tunesmith.recipe.specs.base import LARGEST_SEED, Spec
from tunesmith.recipe.specs.clean import ContentSpec, FilterSpec, PiiSpec, RepairSpec
from tunesmith.recipe.specs.labels import LabelsSpec
from tunesmith.recipe.specs.sources import Layout as Layout
from tunesmith.recipe.specs.sources import SourceSpec as SourceSpec

Task = Literal["chat", "text_class", "token_class", "image_class", "detection", "audio_class", "audio_text"]
_Split = TypeVar("_Split")
ClassRows = Literal["text_class", "multi_label", "token_class"]
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
"""Name of one of several tasks: it also names files."""


class CleanSpec(Spec):
    """What is mended or removed before the split."""

    unstated: ClassVar[frozenset[str]] = frozenset({"near_duplicates", "semantic_duplicates"})
    normalize: bool = Field(
        True, description="Unicode NFC, no control characters, line ends as \\n, outer blanks of turns cut."
    )
    exact_duplicates: bool = Field(True, description="Merge rows whose content is the same.")
    near_duplicates: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Jaccard similarity of phrases from which on only one of two rows stays, their prompts in one "
        "split, such as 0.7; none looks for none.",
    )
    semantic_duplicates: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Cosine of the bundled encoder (English) from which on one of two rows goes, and any like what is "
        "tested, such as 0.95; none looks for none.",
    )
    repair: RepairSpec | None = Field(None, description="Rules that change texts; none: no text is mended.")
    filter: FilterSpec | None = Field(None, description="Rules that drop rows; none: every readable row stays.")
    pii: PiiSpec | None = Field(None, description="Personal data; none: not looked for.")
    content: ContentSpec | None = Field(None, description="Lists of words that you own; none: not looked for.")

    @model_validator(mode="before")
    @classmethod
    def _pii_by_its_action(cls, values: object) -> object:
        """`pii: mask` says the same as `pii: {action: mask}`, and `pii: none` that it is not looked for."""
        stated = values.get("pii") if isinstance(values, dict) else None
        if isinstance(values, dict) and isinstance(stated, str):
            return {**values, "pii": None if stated == "none" else {"action": stated}}
        return values


class FoldSpec(Spec):
    """One of the runs of a cross-validation."""

    number: int = Field(
        1, ge=1, description="Which part is the test rows, counted from 1; set another one in each run."
    )
    of: int = Field(5, ge=2, le=100, description="Into how many equal parts the rows are cut.")

    @model_validator(mode="after")
    def _is_there(self) -> Self:
        if self.number > self.of:
            raise ValueError("fold_number")
        return self


class SplitSpec(Spec):
    """Shares of rows by split; rows of one group or with one prompt never part."""

    unstated: ClassVar[frozenset[str]] = frozenset({"time_by", "stratify_by", "fold"})
    train: float = Field(0.7, gt=0, lt=1, description="Share of rows for training.")
    validation: float = Field(0.15, gt=0, lt=1, description="Share of rows for choosing the best checkpoint.")
    test: float = Field(0.15, gt=0, lt=1, description="Share of rows seen only by the evaluation.")
    group_by: str | None = Field(None, description="Column whose equal values stay in one split.")
    time_by: str | None = Field(
        None,
        min_length=1,
        description="Column of times: the newest rows are test, those before them validation. ISO 8601 (without a zone "
        "it is UTC), a day, or seconds since 1970.",
    )
    stratify_by: Literal["class"] | None = Field(
        None, description="Keep the shares of the classes alike in all splits; none takes no heed of them."
    )
    fold: FoldSpec | None = Field(
        None,
        description="Cross-validation: the test rows are one of equal parts, train and validation share the others.",
    )
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="Seed of the split.")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        return _with_whole(self, self.shares)

    @model_validator(mode="after")
    def _time_decides_alone(self) -> Self:
        if self.time_by is not None and (self.fold is not None or self.stratify_by is not None):
            raise ValueError("time_alone")
        return self

    @property
    def shares(self) -> dict[SplitName, float]:
        """What each split is to have of the rows."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


class StageSplitSpec(Spec):
    """Shares of a stage's own rows; none are tested, because the evaluation asks the run's."""

    unstated: ClassVar[frozenset[str]] = frozenset({"time_by", "stratify_by"})
    train: float = Field(0.85, gt=0, lt=1, description="Share of rows for training.")
    validation: float = Field(0.15, gt=0, lt=1, description="Share of rows for choosing the best checkpoint.")
    group_by: str | None = Field(None, description="Column whose equal values stay in one split.")
    time_by: str | None = Field(
        None,
        min_length=1,
        description="Column of times: the newest rows are validation. ISO 8601 (without a zone it is UTC), a day, or "
        "seconds since 1970.",
    )
    stratify_by: Literal["class"] | None = Field(
        None, description="Keep the shares of the classes alike in both splits; none takes no heed of them."
    )
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="Seed of the split.")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        return _with_whole(self, self.shares)

    @model_validator(mode="after")
    def _time_decides_alone(self) -> Self:
        if self.time_by is not None and self.stratify_by is not None:
            raise ValueError("time_alone")
        return self

    @property
    def shares(self) -> dict[SplitName, float]:
        """What each split is to have of the rows."""
        return {"train": self.train, "validation": self.validation}


def _with_whole(spec: _Split, shares: Mapping[SplitName, float]) -> _Split:
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError("shares")
    return spec


class RowsSpec(Spec):
    """Rows: what they mean, where they come from and how they are cleaned."""

    unstated: ClassVar[frozenset[str]] = frozenset({"tasks"})

    task: Task = Field(
        "chat",
        description="What the rows mean: conversations, texts or tokens that have classes; pictures and sounds, which "
        "are read and not trained yet.",
    )
    rows: Literal[
        "chat",
        "text",
        "preference",
        "kto",
        "text_class",
        "multi_label",
        "token_class",
        "image_class",
        "detection",
        "audio_class",
        "audio_text",
    ] = Field(
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
    clean: CleanSpec = Field(CleanSpec(), description="Cleaning before the split.")

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


class DataSpec(RowsSpec):
    """The rows of a run: those that it is evaluated on, and those that every stage without rows of its own learns."""

    unstated: ClassVar[frozenset[str]] = frozenset({"benchmarks", "tasks"})
    test_sources: list[SourceSpec] = Field([], description="Given instead of cutting test from the sources.")
    benchmarks: list[SourceSpec] | None = Field(
        None,
        description="Files of test questions that no training row may repeat: half the runs of 8 words of a passage.",
    )
    split: SplitSpec = Field(SplitSpec(), description="Shares and groups of the split.")
    labels: LabelsSpec | None = Field(None, description="Care for labels; none: they are taken as they are.")
    augment: AugmentSpec | None = Field(None, description="Rows made from the training rows; none: no such rows.")


class StageDataSpec(RowsSpec):
    """Rows that one stage alone learns from."""

    unstated: ClassVar[frozenset[str]] = frozenset({"labels", "tasks"})
    split: StageSplitSpec = Field(StageSplitSpec(), description="Shares and groups of the split.")
    labels: LabelsSpec | None = Field(None, description="Care for labels; none: they are taken as they are.")
