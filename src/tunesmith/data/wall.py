"""The wall between what is learned from and what is asked: validation, test and the named benchmarks.

Every table of rows that a model learns from is held against it, whoever wrote its rows; what goes stands in the ledger
with the row, or the benchmark's row, that it repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tunesmith.core.errors import Fact, TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SplitName
from tunesmith.data.apart import asks, means_across, near_across, repeats, texts_of
from tunesmith.data.dedup import Embedder
from tunesmith.data.formats.files import list_files, read_files
from tunesmith.data.formats.read import manner_of
from tunesmith.data.formats.rows import Unread
from tunesmith.data.notes import Note
from tunesmith.data.split import shared_with
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.data import CleanSpec, SourceSpec

LOOKED_AT: tuple[SplitName, ...] = ("test", "validation")
"""Splits whose rows nothing may be learned from."""


@dataclass(frozen=True)
class Likeness:
    """From where on two prompts are too alike to stand on both sides; None: not compared in this way."""

    near: float | None = None
    """Jaccard similarity of shingles."""
    meaning: float | None = None
    """Cosine of the encoder's vectors."""

    @classmethod
    def of(cls, *rules: CleanSpec | None) -> Likeness:
        """The lower of what several settings state."""
        stated = [each for each in rules if each is not None]
        near = [each.near_duplicates for each in stated if each.near_duplicates is not None]
        meaning = [each.semantic_duplicates for each in stated if each.semantic_duplicates is not None]
        return cls(min(near, default=None), min(meaning, default=None))


class Wall:
    """Holds tables apart. Benchmarks are read once, and of a text there is one vector, however often it is compared."""

    def __init__(self, benchmarks: Sequence[SourceSpec], folder: Path, ledger: Ledger, embed: Embedder | None) -> None:
        self._benchmarks = benchmarks
        self._folder = folder
        self._ledger = ledger
        self._embed = embed
        self._vectors: dict[str, NDArray[np.float32]] = {}

    @cached_property
    def _passages(self) -> list[tuple[SourceSpec, list[tuple[int, str]]]]:
        """The texts of each benchmark, with the number of the row that they stand in."""
        found = []
        for source in self._benchmarks:
            files = list_files(local_path(source, self._folder), source.split)[0]
            raws = (raw for path in files for raw in read_files(path, manner_of(source)))
            rows = (row for raw in raws for row in raw.rows)
            texts = [(place, text) for place, row in enumerate(rows) if not isinstance(row, Unread)
                     for text in texts_of(row)]  # fmt: skip
            found.append((source, texts))
        return found

    def without_benchmarks(
        self, name: str, frame: pl.DataFrame, meaning: float | None = None
    ) -> tuple[pl.DataFrame, list[Note]]:
        """The rows of a table that repeat nothing that a benchmark asks, word for word or by their meaning.

        Errors: data.no_embedder.
        """
        notes = []
        for source, passages in self._passages:
            found = repeats(frame, passages)
            frame = self._dropped(frame, found, "repeats_benchmark")
            notes.append(Note("data.benchmark_kept_out", {"rows": len(found), "name": source.title, "split": name}))
            if meaning is not None:
                alike = asks(frame, passages, meaning, self._vectors_of)
                frame = self._dropped(frame, alike, "means_one_in_benchmark")
                told: dict[str, Fact] = {"rows": len(alike), "name": source.title, "split": name}
                notes.append(Note("data.benchmark_meaning_kept_out", told))
        return frame, notes

    def keep_apart(self, frames: dict[SplitName, pl.DataFrame], stage: str = "") -> list[Note]:
        """Take rows out of training that stand in a given test or validation, and out of validation those of test.

        Args:
            stage: whose tables they are, for what is said of them.
        """
        notes = []
        for split, others in (("validation", ("test",)), ("train", ("test", "validation"))):
            for other in others:
                if split in frames and other in frames:
                    name = f"{stage}-{split}" if stage else split
                    frames[split], told = self.without_shared(name, frames[split], other, frames[other])
                    notes += told
        return notes

    def without_shared(
        self, name: str, frame: pl.DataFrame, other: str, others: pl.DataFrame
    ) -> tuple[pl.DataFrame, list[Note]]:
        """The rows that share neither a prompt nor a group with a row of `others`; the rest are dropped."""
        shared = shared_with(frame, others)
        by_prompt = shared.filter("same_prompt")["row"]
        by_group = shared.filter(~pl.col("same_prompt"))["row"]
        self._ledger.decide(by_prompt, "dropped", f"prompt_also_in_{other}")
        self._ledger.decide(by_group, "dropped", f"group_also_in_{other}")
        facts: dict[str, Fact] = {"rows": len(shared), "split": name, "other": other}
        notes = [Note("data.kept_apart", facts)] if len(shared) else []
        return frame.join(shared, on="row", how="anti", maintain_order="left"), notes

    def keep_alike_apart(
        self, frames: Mapping[str, pl.DataFrame], likeness: Likeness, only: Sequence[str] = ("train", "validation")
    ) -> tuple[dict[str, pl.DataFrame], list[Note]]:
        """Take out rows of some tables whose prompt is like one of a table that goes before theirs, until none is.

        Errors: data.no_embedder.
        """
        tables, notes = dict(frames), list[Note]()
        near, meaning = likeness.near, likeness.meaning
        while near is not None and len(tables) > 1:
            told = self._parted(tables, near_across(tables, near), only, "prompt_near_one_in", "data.near_kept_apart")
            if not told:
                break
            notes += told
        while meaning is not None and len(tables) > 1:
            alike = means_across(tables, meaning, self._vectors_of)
            told = self._parted(tables, alike, only, "prompt_means_one_in", "data.meaning_kept_apart")
            if not told:
                break
            notes += told
        return tables, notes

    def _parted(
        self, tables: dict[str, pl.DataFrame], alike: pl.DataFrame, only: Sequence[str], reason: str, told: str
    ) -> list[Note]:
        notes = []
        alike = alike.filter(pl.col("name").is_in(only))
        for (name, other), rows in alike.group_by("name", "other", maintain_order=True):
            self._ledger.decide(rows["row"], "dropped", f"{reason}_{other}", rows["partner"])
            notes.append(Note(told, {"rows": len(rows), "split": str(name), "other": str(other)}))
            tables[str(name)] = tables[str(name)].join(rows, on="row", how="anti", maintain_order="left")
        return notes

    def _dropped(self, frame: pl.DataFrame, found: pl.DataFrame, reason: str) -> pl.DataFrame:
        """The table without the rows that were found, each with the benchmark's row that it repeats."""
        self._ledger.decide(found["row"], "dropped", reason, found["partner"])
        return frame.join(found, on="row", how="anti", maintain_order="left")

    def _vectors_of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of unit length of each text [N, E]. Errors: data.no_embedder."""
        if self._embed is None:
            raise TunesmithError("data.no_embedder")
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors |= dict(zip(new, self._embed(new), strict=True))
        return np.stack([self._vectors[text] for text in texts]) if texts else np.empty((0, 1), np.float32)
