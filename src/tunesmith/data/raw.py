"""Training rows as they were before anything was cleaned, beside the very validation and test rows of a run.

What cleaning gains is measured by training on both. What is no cleaning stays as it was: rows that may not be used or
were not drawn, those that stand in test or validation (also in another spelling), and those that repeat a benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder
from tunesmith.core.ledger import STILL_USED, Entry, Ledger
from tunesmith.core.types import SplitName
from tunesmith.data.clean import reasons_of_blank
from tunesmith.data.defects import Reason
from tunesmith.data.filters import reasons_to_filter
from tunesmith.data.formats.read import Reading, licences_of_rows, read_source
from tunesmith.data.prepare import sources_in_order
from tunesmith.data.readable import readable
from tunesmith.recipe.specs.data import DataSpec, SourceSpec

ALIKE: Final[frozenset[Reason]] = frozenset(
    {"exact_duplicate_of_row", "near_duplicate_of_row", "semantic_duplicate_of_row"}
)
"""Another row went before it, whose number is the entry's amount."""
_LICENCE: Final = "licence"
_NO_LICENCES: Final[Mapping[int, str]] = MappingProxyType({})
_SUSPECTED: Final[Reason] = "suspected_label"
CLEANED_AWAY: Final[frozenset[Reason]] = ALIKE | reasons_to_filter() | reasons_of_blank() | {_SUSPECTED}
"""Why cleaning drops a row that can be read."""


def raw_rows(
    spec: DataSpec, recipe_folder: Path, ledger: Ledger, frames: Mapping[SplitName, pl.DataFrame]
) -> pl.DataFrame:
    """The rows from which cleaning made the training rows of a run, as their files have them.

    Args:
        ledger: of the run, and `frames` its splits.

    Errors: those of `read_source`; data.source_changed where the files do not hold the rows of the ledger any more.
    """
    again, found = Ledger(), []
    for split, source in sources_in_order(spec):
        reading = Reading(spec.kind_of(source.title), None, spec.split.seed)
        frame, _ = read_source(source.model_copy(update={"sample": None}), split, recipe_folder, reading, again)
        if split == "train":
            found.append(frame)
    entries = ledger.entries()
    if [each.source for each in again.entries()] != [each.source for each in entries[: len(again)]]:
        raise TunesmithError("data.source_changed", path=spec.sources[0].address)
    trained = set(frames["train"]["row"])
    wanted = [each.row for each in entries[: len(again)] if _home(each, entries).row in trained or _went(each, entries)]
    return pl.concat(found).filter(pl.col("row").is_in(wanted))


def _home(entry: Entry, entries: tuple[Entry, ...]) -> Entry:
    """The row that stands for it: itself, or the one that it was alike, or which that one was alike."""
    while entry.reason in ALIKE and entry.fate not in STILL_USED:
        entry = entries[entry.amount]
    return entry


def _went(entry: Entry, entries: tuple[Entry, ...]) -> bool:
    """Whether cleaning dropped it, or the one that stood for it."""
    home = _home(entry, entries)
    return home.fate not in STILL_USED and home.reason in CLEANED_AWAY


def write_raw(
    spec: DataSpec, recipe_folder: Path, ledger: Ledger, frames: Mapping[SplitName, pl.DataFrame], folder: Path
) -> DataSpec:
    """Write raw training rows, and the cleaned rows of validation and test, into a new folder.

    Returns the data of a recipe that learns from them: nothing is cleaned but what the law asks (personal data, word
    lists), which both sides have. Errors: those of `raw_rows` and `new_folder`; data.nothing_cleaned.
    """
    tables = {**frames, "train": raw_rows(spec, recipe_folder, ledger, frames)}
    if _lines(tables["train"]) == _lines(frames["train"].filter(pl.col("parent").is_null())):
        raise TunesmithError("data.nothing_cleaned", rows=len(tables["train"]))
    named = {source.title: source for _, source in sources_in_order(spec)}
    licences, entries = _licences(spec, recipe_folder), ledger.entries()
    written: dict[str, list[SourceSpec]] = {}
    with new_folder(folder, sum(int(each.estimated_size()) for each in tables.values())) as inside:
        for split, frame in tables.items():
            for place, (name, source) in enumerate(named.items()):
                rows = frame.filter((pl.col("source") == name) & pl.col("parent").is_null())
                if rows.is_empty():
                    continue
                file = f"{split}-{place}.jsonl"
                stated = licences.get((split, name)) or licences.get(("train", name))
                own = {row: stated[entries[row].index] for row in rows["row"]} if stated else {}
                (inside / file).write_text("".join(f"{line}\n" for line in _lines(rows, own)), "utf-8")
                column = _LICENCE if own else None
                given = SourceSpec(path=str(folder / file), name=name, licence=source.licence, licence_column=column)
                written.setdefault(split, []).append(given)
    clean = spec.clean.model_copy(update={"normalize": False, "exact_duplicates": False, **_WITHOUT})
    changes: dict[str, object] = {
        "sources": written["train"],
        "validation_sources": written["validation"],
        "test_sources": written["test"],
        "clean": clean,
        "split": type(spec.split)(seed=spec.split.seed),
        "labels": spec.labels and spec.labels.model_copy(update={"suspected": "ignore"}),
    }
    return spec.model_copy(update=changes)


_WITHOUT: Final = dict.fromkeys(("near_duplicates", "semantic_duplicates", "repair", "filter"))


def _licences(spec: DataSpec, folder: Path) -> dict[tuple[str, str], list[str]]:
    """The licence of every row of the sources whose rows state their own, by the split they are given for."""
    return {
        (split, source.title): licences_of_rows(source, folder)
        for split, source in sources_in_order(spec)
        if source.licence_column is not None
    }


def _lines(frame: pl.DataFrame, licences: Mapping[int, str] = _NO_LICENCES) -> list[str]:
    return [_line(row, licences.get(row["row"])) for row in frame.sort("row").iter_rows(named=True)]


def _line(row: dict[str, object], licence: str | None) -> str:
    stated = readable(row)
    if licence is not None:
        stated[_LICENCE] = licence
    if row["kind"] in ("text_class", "token_class"):
        stated["labels"] = row["labels"]  # also where there is none
    return json.dumps(stated, ensure_ascii=False)
