"""Rows that a verb looks at: a run's, a recipe's as it would be read now, or those of a file or a folder."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.cli.work import find_run
from tunesmith.core.errors import TunesmithError

if TYPE_CHECKING:
    from tunesmith.data.diff import Side
    from tunesmith.data.prepared import Prepared

What = Literal["run", "recipe", "file"]
_RECIPES = (".yaml", ".yml")


def looked_at(path: Path) -> tuple[What, Side, Prepared | None]:
    """What a path is, and its rows; what was prepared for this look, too. Errors: those of the three readers.

    A folder is a run, or holds runs (the newest is taken), or else it holds files of rows.
    """
    from tunesmith.data.sides import side_of_file, side_of_recipe, side_of_run

    if path.suffix.lower() in _RECIPES and not path.is_dir():
        return ("recipe", *side_of_recipe(path))
    run = run_in(path)
    if run is not None:
        return "run", side_of_run(run), None
    return ("file", *side_of_file(path))


def side_of(path: Path) -> Side:
    """The rows of a run, a recipe or a file. Errors: those of `looked_at`."""
    return looked_at(path)[1]


def run_in(path: Path) -> Path | None:
    """The run that a folder is or holds; None where there is none."""
    if not path.is_dir():
        return None
    try:
        return find_run(path)
    except TunesmithError:
        return None


def visible(text: str) -> str:
    """Text of a row without signs that steer a terminal or turn the direction of what follows (joiners stay)."""
    return "".join(
        sign if sign in "\n\t\u200c\u200d" or unicodedata.category(sign) not in ("Cc", "Cf", "Cs") else "\ufffd"
        for sign in text
    )
