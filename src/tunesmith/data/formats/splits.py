"""Files of several splits in one place, told by their names as hubs lay data sets out.

    train-00000-of-00002.parquet   data/test-00000-of-00001.parquet   train/0000.parquet   validation.jsonl

Read as one source, test rows would be trained. So a place of several splits is read by the one that the source names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tunesmith.core.errors import TunesmithError
from tunesmith.data.formats.kinds import ARCHIVES, PRESSED, kind_of_file

_MEANS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Words for splits in names of files and folders."""
_WORDS = "|".join(_MEANS)
_SHARD = re.compile(r"(?P<split>\w[\w.]*)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?", re.IGNORECASE)
"""A part of a split of any name, such as train_sft-00000-of-00002; hubs put a hash behind some."""
_NAMED = re.compile(rf"(?:.*[-._ ])?(?P<split>{_WORDS})(?:[-._ ]?\d[\d\-._ of]*)?", re.IGNORECASE)
_KNOWN = re.compile(rf"(?:.*_)?(?:{_WORDS})(?:_.*)?", re.IGNORECASE)


def of_one_split(names: Sequence[str], split: str | None, place: str) -> list[str]:
    """The names of one split: of the one that is asked for, or all where they tell of no more than one.

    Args:
        names: paths of files within the place, parts divided by /.
        split: what the source names; archives whose names tell of no split are kept, as their members are asked.

    Errors: data.several_splits, data.no_such_split.
    """
    told = {name: split_of(name) for name in names}
    found = sorted({each for each in told.values() if each is not None})
    if split is None:
        if len(found) > 1 and any(_KNOWN.fullmatch(each) for each in found):
            raise TunesmithError("data.several_splits", path=place, splits=", ".join(found), first=found[0])
        return list(names)
    wanted = _MEANS.get(split.lower(), split)
    archives = {name for name in names if kind_of_file(Path(name)) in ARCHIVES}
    taken = [name for name, each in told.items() if each == wanted or (each is None and name in archives)]
    if not taken:
        raise TunesmithError("data.no_such_split", path=place, split=split, splits=", ".join(found) or "-")
    return taken


def split_of(name: str) -> str | None:
    """The split that a path tells of, by its file or else by a folder on the way; None where it tells of none."""
    path = PurePosixPath(name)
    stem = path.with_suffix("").stem if path.suffix.lower() in PRESSED else path.stem
    shard = _SHARD.fullmatch(stem)
    if shard is not None and shard["split"].lower() not in _MEANS:
        named = _NAMED.fullmatch(shard["split"])
        return _from_folders(path) or shard["split"] if named is None else _MEANS[named["split"].lower()]
    found = shard or _NAMED.fullmatch(stem)
    return _MEANS[found["split"].lower()] if found is not None else _from_folders(path)


def _from_folders(path: PurePosixPath) -> str | None:
    parts = [part.lower() for part in path.parts[:-1]]
    return next((_MEANS[part] for part in reversed(parts) if part in _MEANS), None)
