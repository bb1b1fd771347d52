"""`tunesmith init [NAME] [--task TASK]`: a recipe with comments and sample rows, ready for `tunesmith run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.manner import answer, command, tell
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.data.samples.tickets import SampleTask, write_tickets
from tunesmith.messages import language, say

TRAIN_ROWS: dict[SampleTask, int] = {"chat": 960, "text_class": 320, "token_class": 320}
VALIDATION_ROWS, TEST_ROWS, SEED = 96, 200, 7
RECIPE = "recipe.yaml"
ROWS: dict[SampleTask, str] = {"chat": "tickets", "text_class": "messages", "token_class": "messages"}
"""The folder of the sample rows of each task, as its template names it."""

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="cli.arg_name", show_default=False)]
TaskOption = Annotated[SampleTask, typer.Option("--task", metavar="TASK", help="cli.opt_task")]


def init(name: NameArgument = ".", task: TaskOption = "chat") -> None:
    """Write a recipe of a task and sample rows into a folder; nothing is overwritten. Errors: recipe.exists."""
    folder = Path(name)
    rows = folder / ROWS[task]
    for path in (folder / RECIPE, rows):
        if path.exists():
            raise TunesmithError("recipe.exists", path=str(path))
    recipe = write_sample(folder, task)
    tell(say("cli.init_recipe", path=str(recipe)))
    tell(say(f"cli.init_rows_{task}", path=str(rows), rows=TRAIN_ROWS[task] + VALIDATION_ROWS + TEST_ROWS))
    tell(say("cli.init_next", command=command("run", recipe)))
    answer({"recipe": str(recipe), "data": str(rows)})


def write_sample(folder: Path, task: SampleTask = "chat") -> Path:
    """The sample rows first and the recipe last, so that a recipe that is there can be run; returns its path."""
    counts = {"train": TRAIN_ROWS[task], "validation": VALIDATION_ROWS, "test": TEST_ROWS}
    write_tickets(folder / ROWS[task], seed=SEED, task=task, **counts)
    write_atomic(folder / RECIPE, sample_recipe(task))
    return folder / RECIPE


def sample_recipe(task: SampleTask) -> str:
    """The text of the sample recipe of a task, with comments in the language in force."""
    return Path(__file__).with_name("templates").joinpath(f"{task}.{language()}.yaml").read_text("utf-8")
