"""The files of a recipe's sources, and compressed ones unpacked: only what lies open can be read from the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import is_whole, new_folder
from tunesmith.data.corpus.groups import PARQUET
from tunesmith.data.formats.files import list_files
from tunesmith.data.formats.kinds import PRESSED, is_pressed, kind_of_file
from tunesmith.data.formats.unpack import unpressed_chunks
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.data import SourceSpec

_KINDS = (".jsonl", ".ndjson", PARQUET)


@dataclass(frozen=True)
class Input:
    """A file of a source (by its place in the recipe) and what it is read as, such as ".jsonl"."""

    source: int
    path: Path
    kind: str


def inputs_of(sources: Sequence[SourceSpec], folder: Path) -> list[Input]:
    """The files of all sources, in their order. Errors: those of `list_files`, data.corpus_suffix, data.empty_file."""
    found = []
    for place, source in enumerate(sources):
        for path in list_files(local_path(source, folder), source.split)[0]:
            kind = kind_of_file(path)
            if kind not in _KINDS or (kind == PARQUET and is_pressed(path)):
                suffixes = " ".join((*_KINDS, *(f"{_KINDS[0]}{each}" for each in PRESSED)))
                raise TunesmithError("data.corpus_suffix", path=str(path), suffixes=suffixes)
            if not path.stat().st_size:
                raise TunesmithError("data.empty_file", path=str(path))
            found.append(Input(place, path, kind))
    return found


def unpacked(each: Input, folder: Path) -> Input:
    """The input as it is, or unpacked into `folder` unless that was done before.

    Errors: those of `unpressed_chunks` and `new_folder`; data.empty_file where nothing comes out.
    """
    if not is_pressed(each.path):
        return each
    opened = folder / f"rows{each.kind}"
    if not is_whole(folder, of=folder.name):
        with new_folder(folder, of=folder.name) as aside, (aside / opened.name).open("wb") as stream:
            for chunk in unpressed_chunks(each.path):
                stream.write(chunk)
            if not stream.tell():
                raise TunesmithError("data.empty_file", path=str(each.path))
    return replace(each, path=opened)
