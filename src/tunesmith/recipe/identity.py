"""Which run a recipe means: the same settings over the same files are the same run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
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
    for found in source_hashes(recipe, folder).values():
        digest.update(found.encode())
    return digest.hexdigest()


def source_hashes(recipe: Recipe, folder: Path) -> dict[str, str]:
    """SHA-256 of each source, by its place in the recipe and its path; of a folder, of the list of its files."""
    found: dict[str, str] = {}
    for name in ("sources", "validation_sources", "test_sources"):
        for number, source in enumerate(getattr(recipe.data, name)):
            path = user_path(source.path, folder)
            if os.path.isdir(path):
                listed = repr(sorted(folder_hashes(path).items()))
                found[f"data.{name}.{number} ({source.path})"] = hashlib.sha256(listed.encode()).hexdigest()
            elif os.path.isfile(path):
                found[f"data.{name}.{number} ({source.path})"] = sha256_file(path)
    return found


def settings(recipe: Recipe, *parts: str) -> dict[str, str]:
    """Every single setting by its place, such as stages.0.train.batch_size; of the named parts, or of all."""
    values = recipe.model_dump(mode="json")
    return {
        place: json.dumps(value, ensure_ascii=False) for place, value in _leaves(values, "") if _within(place, parts)
    }


def _within(place: str, parts: tuple[str, ...]) -> bool:
    return not parts or place.partition(".")[0] in parts


def _leaves(value: object, place: str) -> Iterator[tuple[str, object]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for name, each in inner:
        found = True
        yield from _leaves(each, f"{place}.{name}" if place else str(name))
    if not found:
        yield place, value
