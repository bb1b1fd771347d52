"""Pictures and sounds that no run holds: their card and their page, of a recipe's rows or those of a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.rows import looked_at
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, write_atomic
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.data.diff import Side
    from tunesmith.data.prepared import Prepared

_RECIPES = (".yaml", ".yml")
PAGE = Path("xray.html")


def holds_media(path: Path) -> bool:
    """Whether a path is a recipe for rows about pictures or sounds, or a file or folder of such."""
    from tunesmith.data.media.kinds import MEDIA_KINDS
    from tunesmith.data.media.read import kind_of_place
    from tunesmith.recipe.load import load_recipe

    if path.suffix.lower() in _RECIPES and os.path.isfile(path):
        return load_recipe(path).data.kind in MEDIA_KINDS
    is_run = os.path.exists(path / MANIFEST)
    return os.path.exists(path) and not is_run and kind_of_place(path) is not None


def card_of_media(path: Path) -> None:
    """Write the data card into the current folder. Errors: recipe.exists."""
    from tunesmith.data.card import card_sections
    from tunesmith.data.card_pages import as_markdown, as_page
    from tunesmith.data.prepare import CARD, CARD_PAGE

    side, prepared = _rows(path)
    _refuse_existing(Path(CARD), Path(CARD_PAGE))
    sections = card_sections(prepared)
    write_atomic(Path(CARD), as_markdown(sections))
    write_atomic(Path(CARD_PAGE), as_page(sections))
    tell(say("versions.version", version=side.version.id))
    for name in (CARD_PAGE, CARD):
        tell(f"    {name}")
    answer({"path": side.name, "version": side.version.id, "card": {"html": CARD_PAGE, "md": CARD}})


def page_of_media(path: Path, rows: int) -> None:
    """Write a page of the first rows into the current folder. Errors: recipe.exists, those of `media_page`."""
    from tunesmith.data.media.page import media_page
    from tunesmith.data.table import to_examples

    side, _ = _rows(path)
    _refuse_existing(PAGE)
    frame = side.tables.get("train", next(iter(side.tables.values())))
    roots = _roots(path)
    shown = to_examples(frame.head(rows))
    write_atomic(PAGE, media_page(side.name, [(roots[each.origin.source], each) for each in shown]))
    tell(say("cli.xray_page", path=str(PAGE)))
    answer({"path": side.name, "xray": str(PAGE), "rows": [each.row for each in shown]})


def _rows(path: Path) -> tuple[Side, Prepared]:
    _, side, prepared = looked_at(path)
    if prepared is None:
        raise ValueError("a run, which has a card of its own")
    return side, prepared


def _roots(path: Path) -> dict[str, Path]:
    """The folder that the files of each source lie in, by the source's name."""
    from tunesmith.recipe.load import load_recipe
    from tunesmith.recipe.places import local_path

    if path.suffix.lower() not in _RECIPES:
        return {str(path): path if path.is_dir() else path.parent}
    found = {each.title: local_path(each, path.resolve().parent) for each in load_recipe(path).all_sources}
    return {name: place if place.is_dir() else place.parent for name, place in found.items()}


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise TunesmithError("recipe.exists", path=str(path))
