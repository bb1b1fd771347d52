"""`tunesmith init [NAME]`: a recipe with comments and sample rows, ready for `tunesmith run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.messages import language, say

TRAIN_ROWS, VALIDATION_ROWS, TEST_ROWS, SEED = 960, 96, 200, 7
RECIPE, TICKETS = "recipe.yaml", "tickets"

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="cli.arg_name", show_default=False)]


def init(name: NameArgument = ".") -> None:
    """Write a recipe and sample rows into a folder; nothing is overwritten."""
    folder = Path(name)
    for path in (folder / RECIPE, folder / TICKETS):
        if path.exists():
            raise TunesmithError("recipe.exists", path=str(path))
    recipe = write_sample(folder)
    tell(say("cli.init_recipe", path=str(recipe)))
    tell(say("cli.init_rows", path=str(folder / TICKETS), rows=TRAIN_ROWS + VALIDATION_ROWS + TEST_ROWS))
    tell(say("cli.init_next", command=f"tunesmith run {recipe}"))
    answer({"recipe": str(recipe), "data": str(folder / TICKETS)})


def write_sample(folder: Path) -> Path:
    """The sample rows first and the recipe last, so that a recipe that is there can be run; returns its path."""
    from tunesmith.data.samples.tickets import write_tickets

    write_tickets(folder / TICKETS, train=TRAIN_ROWS, validation=VALIDATION_ROWS, test=TEST_ROWS, seed=SEED)
    write_atomic(folder / RECIPE, sample_recipe())
    return folder / RECIPE


def sample_recipe() -> str:
    """The text of the sample recipe, with comments in the language in force."""
    return Path(__file__).with_name("templates").joinpath(f"recipe.{language()}.yaml").read_text("utf-8")
