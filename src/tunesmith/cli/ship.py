"""`tunesmith ship RUN`: up to published artefacts and the release card."""

from __future__ import annotations

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RUNS, RunArgument, RunsOption
from tunesmith.cli.results import CARD, measured, show_metrics
from tunesmith.cli.stages import run_until
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import opened
from tunesmith.messages import say


def ship(run: RunArgument, runs: RunsOption = RUNS) -> None:
    """Continue a run until it is published, and decide."""
    path = run_until(run, "ship", runs)
    with Terminal() as listener, opened(path, listener) as work:
        from tunesmith import lifecycle

        verdict = lifecycle.make_card(work)
    figures = measured(path)
    show_metrics(figures)
    tell()
    tell(say(f"cli.verdict_{verdict.decision}"), "bold")
    tell(say("cli.card", path=str(path / CARD)))
    formats = {each.parent.name: str(each.parent) for each in sorted(path.glob("ship/*/manifest.json"))}
    answer({"run": str(path), "verdict": verdict.decision, "card": str(path / CARD), "formats": formats})
