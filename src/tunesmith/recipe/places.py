"""Where the rows of a source lie on this machine: at its path, or in a folder that they are fetched into first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tunesmith.core.files import user_path
from tunesmith.core.home import cache_folder
from tunesmith.recipe.specs.sources import SourceSpec

COLLECTED = "collected"
_FILE = "file://"


def is_local(source: SourceSpec) -> bool:
    """Whether a source is files of this machine, read where they lie."""
    return source.query is None and ("://" not in source.path or source.path.startswith(_FILE))


def local_path(source: SourceSpec, folder: Path) -> Path:
    """The file or folder to read. That of a source from elsewhere is named after what it asks for, and where.

    Args:
        folder: the recipe's, where relative paths begin.
    """
    if is_local(source):
        return user_path(source.path.removeprefix(_FILE), folder)
    asked = [source.path, source.query, _database(source, folder)]
    return cache_folder() / COLLECTED / hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


def _database(source: SourceSpec, folder: Path) -> str:
    """A database by the name of its variable: what that holds is a secret. A file by its path."""
    stated = source.database or ""
    return stated if not stated or stated.startswith("env:") else str(user_path(stated, folder).resolve())
