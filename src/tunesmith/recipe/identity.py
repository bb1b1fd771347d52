"""Which run a recipe means: the same settings over the same files are the same run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tunesmith.core.files import folder_hashes, sha256_file, user_path
from tunesmith.recipe.recipe import Recipe


def anchored(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a base that is a path made absolute: like every path in it, it starts at the recipe's folder."""
    base = recipe.model.base
    if base.startswith("~") or not ("/" in base or base.endswith(".gguf")) or not os.path.exists(folder / base):
        return recipe
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"base": str((folder / base).resolve())})})


def identity(recipe: Recipe, folder: Path) -> str:
    """SHA-256 of the recipe and of every file it reads: an edited source is another run."""
    digest = hashlib.sha256(recipe.as_json().encode())
    for source in (*recipe.data.sources, *recipe.data.validation_sources, *recipe.data.test_sources):
        path = user_path(source.path, folder)
        if os.path.isdir(path):
            digest.update(repr(sorted(folder_hashes(path).items())).encode())
        elif os.path.isfile(path):
            digest.update(sha256_file(path).encode())
    return digest.hexdigest()
