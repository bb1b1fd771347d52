"""Arguments and options that several verbs share, so that one thing has one name and one explanation.

`help` holds the code of a sentence; the help page says it in the language in force.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="cli.arg_recipe", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="cli.arg_run", show_default=False)]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="cli.opt_set", show_default=False)]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="cli.opt_runs")]
MachineOption = Annotated[bool, typer.Option("--accept-machine", help="cli.opt_accept_machine")]
BaseOption = Annotated[str | None, typer.Option("--base", metavar="BASE", help="cli.opt_base", show_default=False)]
NewOption = Annotated[bool, typer.Option("--new", help="cli.opt_new")]
