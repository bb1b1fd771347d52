"""`tunesmith plan RECIPE`: is it a good idea, and what will it cost."""

from __future__ import annotations

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RUNS, RunArgument, RunsOption
from tunesmith.cli.stages import run_until
from tunesmith.core.files import read_json
from tunesmith.messages import say


def plan(recipe: RunArgument, runs: RunsOption = RUNS) -> None:
    """Prepare the rows and plan; nothing is trained."""
    path = run_until(recipe, "plan", runs)
    tell(say("cli.next_verb", command=f"tunesmith train {path}"))
    found = path / "plan.json"
    answer({"run": str(path), "stage": "plan", "plan": read_json(found) if found.is_file() else {}})
