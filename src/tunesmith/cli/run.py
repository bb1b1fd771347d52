"""`tunesmith run RECIPE`: the whole life cycle of a recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tunesmith.cli.manner import answer, command, tell
from tunesmith.cli.options import RUNS, MachineOption, NewOption, RecipeArgument, RunsOption, SetOption
from tunesmith.cli.results import CARD, efficiency, measured, show_metrics
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import started
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.work import Work


def run(
    recipe: RecipeArgument, set_: SetOption = None, new: NewOption = False, runs: RunsOption = RUNS,
    accept_machine: MachineOption = False,
) -> None:  # fmt: skip
    """Every stage that is not done yet, then the verdict."""
    with Terminal() as listener, started(recipe, set_ or [], runs, listener, new) as work:
        tell(say("cli.run_folder", path=str(work.path)))
        from tunesmith import lifecycle

        verdict = lifecycle.run_to_release(replace(work, accept_machine=accept_machine))
    figures = measured(work.path)
    show_metrics(figures)
    tell()
    tell(say(f"cli.verdict_{verdict.decision}"), "bold")
    tell(say("cli.card", path=str(work.path / CARD)))
    tell(_try_it(work))
    card, speed = str(work.path / CARD), efficiency(work.path)
    answer({"run": str(work.path), "verdict": verdict.decision, "card": card, "metrics": figures, "efficiency": speed})


def _try_it(work: Work) -> str:
    """The next command: of several tasks with heads, one is named as an example."""
    tasks = work.recipe.data.tasks
    if work.recipe.data.task == "chat":
        return say("cli.try_serve", chat=command("chat", work.path), serve=command("serve", work.path))
    task = ("--task", next(iter(tasks))) if tasks else ()
    return say("cli.try_predict", command=command("predict", "FILE", "--model", work.path, *task))
