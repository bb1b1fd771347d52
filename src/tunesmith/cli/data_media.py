"""Pictures and sounds: a recipe's rows prepared, and the card and the page of a recipe, a folder or a run of such."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.rows import looked_at, run_in
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, write_atomic
from tunesmith.core.run import LOCK
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.data.diff import Side
    from tunesmith.data.prepared import Prepared

_RECIPES = (".yaml", ".yml")
PAGE = Path("xray.html")


def holds_media(path: Path) -> bool:
    """Whether a path is a recipe for rows about pictures or sounds, or a file or folder of such."""
    from tunesmith.data.media.read import kind_of_place

    if is_media_recipe(path):
        return True
    is_run = os.path.exists(path / MANIFEST)
    is_recipe = path.suffix.lower() in _RECIPES and os.path.isfile(path)
    return os.path.exists(path) and not is_run and not is_recipe and kind_of_place(path) is not None


def is_media_recipe(path: Path) -> bool:
    """Whether a path is a recipe for rows about pictures or sounds."""
    from tunesmith.data.media.kinds import MEDIA_KINDS
    from tunesmith.recipe.load import load_recipe

    return path.suffix.lower() in _RECIPES and os.path.isfile(path) and load_recipe(path).data.kind in MEDIA_KINDS


def media_run(path: Path) -> Path | None:
    """The run that a path names, where it holds pictures or sounds."""
    from tunesmith.data.media.kinds import MEDIA_KINDS
    from tunesmith.recipe.load import load_recipe

    found = run_in(path)
    return found if found is not None and load_recipe(found / LOCK).data.kind in MEDIA_KINDS else None


def prepare_media(recipe: Path, runs: Path) -> Path:
    """Read, split and augment the rows of a recipe into a run. Errors: those of `prepared_run`."""
    from tunesmith.data.media_run import prepared_run

    run = prepared_run(recipe, runs)
    tell(say("cli.run_folder", path=str(run.path)))
    return run.path


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
    import polars as pl

    from tunesmith.data.media.page import media_page
    from tunesmith.data.media_run import places_in
    from tunesmith.data.table import to_examples

    _, side, prepared = looked_at(path)
    _refuse_existing(PAGE)
    frame = side.tables.get("train", next(iter(side.tables.values())))
    places = places_in(Path(side.name)) if prepared is None else prepared.places
    if places.made is None:  # a look at a recipe makes no files
        frame = frame.filter(pl.col("parent").is_null())
    shown = to_examples(frame.head(rows))
    write_atomic(PAGE, media_page(side.name, shown, places))
    tell(say("cli.xray_page", path=str(PAGE)))
    answer({"path": side.name, "xray": str(PAGE), "rows": [each.row for each in shown]})


def _rows(path: Path) -> tuple[Side, Prepared]:
    _, side, prepared = looked_at(path)
    if prepared is None:
        raise ValueError("a run, which has a card of its own")
    return side, prepared


def _refuse_existing(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise TunesmithError("recipe.exists", path=str(path))
