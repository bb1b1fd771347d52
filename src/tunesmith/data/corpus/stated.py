"""What a finished corpus states of itself beside its rows: its version, and the settings and files that made it.

The version is the one that the same rows, splits and settings have as tables of a run (data/version.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import polars as pl

from tunesmith.core.files import MANIFEST, read_json, sha256_file, write_json
from tunesmith.core.types import SPLITS
from tunesmith.data.corpus.executors import Executor
from tunesmith.data.corpus.shards import DIGEST, LEDGER
from tunesmith.data.version import Version, version_of_digests
from tunesmith.recipe.identity import hash_of_files
from tunesmith.recipe.places import local_path
from tunesmith.recipe.specs.data import SourceSpec

VERSION = "version.json"


@dataclass(frozen=True)
class Stated:
    """The version of a corpus, the settings that made its rows, and the SHA-256 of each source by its name."""

    version: Version
    settings: Mapping[str, object]
    sources: Mapping[str, str]


def is_corpus(folder: Path) -> bool:
    """Whether a folder is a finished corpus."""
    return all((folder / name).exists() for name in (MANIFEST, VERSION, LEDGER))


def shards_of(folder: Path, name: str) -> list[Path]:
    """The files of a split, or of the ledger, in the order of their rows."""
    return sorted((folder / name).glob("part-*.parquet"))


def state_version(folder: Path, settings: Mapping[str, object], sources: Mapping[str, str]) -> Stated:
    """Write the version of the rows that lie in a folder. Held in memory: the 32 bytes of each row's digest."""
    stated = Stated(version_of_shards(folder, settings), settings, sources)
    write_json(folder / VERSION, asdict(stated))
    return stated


def read_stated(folder: Path) -> Stated:
    """What a corpus states of itself. Errors: core.missing_file, core.broken_json."""
    found = read_json(folder / VERSION)
    version = Version(**cast(dict[str, str], found["version"]))  # type: ignore[arg-type]  # as `state_version` wrote it
    return Stated(version, cast(dict[str, object], found["settings"]), cast(dict[str, str], found["sources"]))


def version_of_shards(folder: Path, settings: Mapping[str, object]) -> Version:
    """The version that the stored digests give."""
    digests: dict[str, list[bytes]] = {
        name: [each for path in shards_of(folder, name) for each in _digests(path)] for name in SPLITS
    }
    return version_of_digests(digests, settings)


def _digests(path: Path) -> pl.Series:
    return pl.read_parquet(path, columns=[DIGEST])[DIGEST]


def source_hashes(sources: Sequence[SourceSpec], recipe_folder: Path, executor: Executor) -> dict[str, str]:
    """The SHA-256 of each source by its name: what `hash_of_source` says, several files at a time."""
    places = [local_path(source, recipe_folder) for source in sources]
    files = [_files_of(place) for place in places]
    found = iter(executor.map(sha256_file, [path for each in files for path in each]))
    hashes: dict[str, str] = {}
    for source, place, paths in zip(sources, places, files, strict=True):
        of_files = {path.relative_to(place).as_posix(): next(found) for path in paths}
        hashes[source.title] = hash_of_files(of_files) if place.is_dir() else of_files["."]
    return hashes


def _files_of(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    return sorted(path for path in place.rglob("*") if path.is_file() and path != place / MANIFEST)
