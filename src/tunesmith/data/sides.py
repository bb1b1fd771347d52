"""What can be compared and looked at as a data set: a run, a recipe as it would be read now, or a file of rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import LOCK
from tunesmith.core.types import RowKind
from tunesmith.data.diff import Side
from tunesmith.data.media.kinds import MEDIA_KINDS
from tunesmith.data.media.read import kind_of_place
from tunesmith.data.prepare import FOLDER, load_tables, prepare, read_and_clean
from tunesmith.data.prepared import Prepared
from tunesmith.data.version import settings_of
from tunesmith.recipe.identity import hash_of_source, source_hashes
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.recipe import Recipe
from tunesmith.recipe.specs.data import DataSpec

_TRIED: tuple[RowKind, ...] = ("chat", "preference", "kto", "text_class", "token_class", "text")
"""Kinds of rows, the more telling first: texts with labels are also texts."""
_WITH_A_TASK = ("text_class", "token_class", *MEDIA_KINDS)
_NOT_THIS_KIND = ("data.wrong_kind", "data.unknown_layout", "data.missing_columns", "data.no_question")


def side_of_run(path: Path) -> Side:
    """The rows that a run holds. Errors: those of `load_tables`, versions.version_differs."""
    tables = load_tables(path)
    recipe, stated = load_recipe(path / LOCK), read_manifest(path).get("sources")
    hashes = _hashes(recipe, stated if isinstance(stated, dict) else {})
    side = Side(str(path), tables, Ledger.load(path / "ledger.jsonl"), hashes, settings_of(recipe.data, recipe.stages))
    version = read_manifest(path / FOLDER).get("version")
    if version not in (None, side.version.id):
        raise TunesmithError("versions.version_differs", path=str(path), stated=str(version), found=side.version.id)
    return side


def side_of_recipe(path: Path) -> tuple[Side, Prepared]:
    """The rows that a recipe would give now; nothing is written. Errors: those of `load_recipe` and `prepare`."""
    recipe, folder = load_recipe(path), path.resolve().parent
    prepared = prepare(recipe.data, folder, Ledger(), recipe.stages)
    hashes = _hashes(recipe, source_hashes(recipe, folder))
    return Side(str(path), prepared.tables, prepared.ledger, hashes, prepared.settings), prepared


def side_of_file(path: Path) -> tuple[Side, Prepared]:
    """The rows of a file or a folder, cleaned as by default and not split.

    Errors: those of `read_source`; versions.no_one_kind. The kind of rows is found by trying.
    """
    refused: TunesmithError | None = None
    about = kind_of_place(path)
    for kind in (about,) if about else _TRIED:
        task = kind if kind in _WITH_A_TASK else "chat"
        spec = DataSpec.model_validate({"task": task, "rows": kind, "sources": [{"path": str(path)}]})
        try:
            prepared = read_and_clean(spec, Path.cwd(), Ledger())
        except TunesmithError as error:
            if error.code not in _NOT_THIS_KIND:
                raise
            refused = refused or error
            continue
        return Side(
            str(path), {"": prepared.beside["rows"]}, prepared.ledger, {str(path): hash_of_source(path)}, {}
        ), prepared
    if refused is not None and refused.code != "data.wrong_kind":
        raise refused
    raise TunesmithError("versions.no_one_kind", path=str(path))


def _hashes(recipe: Recipe, stated: Mapping[str, str]) -> dict[str, str]:
    """The hash of each source's files by the source's name in the ledger."""
    kinds = ("sources", "validation_sources", "test_sources")
    listed = {f"data.{name}": getattr(recipe.data, name) for name in kinds} | recipe.sources_beside
    found: dict[str, str] = {}
    for name, sources in listed.items():
        for number, source in enumerate(sources):
            digest = stated.get(f"{name}.{number} ({source.address})")
            if digest is not None:
                found[source.title] = digest
    return found
