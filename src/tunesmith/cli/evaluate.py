"""`tunesmith evaluate RUN`: up to the tuned model's answers to the test questions."""

from __future__ import annotations

from tunesmith.cli.manner import answer, command, tell
from tunesmith.cli.options import RUNS, RunArgument, RunsOption
from tunesmith.cli.results import measured, show_metrics
from tunesmith.cli.stages import run_until
from tunesmith.messages import say


def evaluate(run: RunArgument, runs: RunsOption = RUNS) -> None:
    """Continue a run until it is measured."""
    path = run_until(run, "evaluate", runs)
    figures = measured(path)
    show_metrics(figures)
    tell(say("cli.next_verb", command=command("ship", path)))
    answer({"run": str(path), "stage": "evaluate", "metrics": figures})
