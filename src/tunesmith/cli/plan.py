"""`tunesmith plan RECIPE`: is it a good idea, and what will it cost."""

from __future__ import annotations

from tunesmith.cli.manner import answer, command, prose, tell
from tunesmith.cli.options import RUNS, RunArgument, RunsOption
from tunesmith.cli.stages import run_until
from tunesmith.core.files import read_json
from tunesmith.messages import language, say

PLAN = "plan.json"


def plan(recipe: RunArgument, runs: RunsOption = RUNS) -> None:
    """Prepare the rows and plan; nothing is trained."""
    path = run_until(recipe, "plan", runs)
    found = read_json(path / PLAN) if (path / PLAN).is_file() else {}
    lines = found.get("lines")
    if isinstance(lines, dict):
        tell()
        for line in lines[language()]:
            prose(str(line))
    tell()
    tell(say("cli.next_verb", command=command("train", path)))
    answer({"run": str(path), "stage": "plan", "plan": found})
