"""`tunesmith train RUN`: up to the trained change."""

from __future__ import annotations

from tunesmith.cli.manner import answer, command, tell
from tunesmith.cli.options import RUNS, MachineOption, RunArgument, RunsOption
from tunesmith.cli.results import efficiency
from tunesmith.cli.stages import run_until
from tunesmith.messages import say


def train(run: RunArgument, runs: RunsOption = RUNS, accept_machine: MachineOption = False) -> None:
    """Continue a run until it is trained."""
    path = run_until(run, "train", runs, accept_machine=accept_machine)
    tell(say("cli.next_verb", command=command("evaluate", path)))
    answer({"run": str(path), "stage": "train", "loss": str(path / "loss.svg"), "efficiency": efficiency(path)})
