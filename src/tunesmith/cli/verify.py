"""`tunesmith verify RUN`: every hash, the ledger, the split, every artefact, and the resume, checked again."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RunArgument
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import opened
from tunesmith.messages import say

ReplayOption = Annotated[bool, typer.Option("--replay/--no-replay", help="cli.opt_replay")]


def verify(run: RunArgument, replay: ReplayOption = True) -> None:
    """Check a run again."""
    with Terminal() as listener, opened(run, listener) as work:
        from tunesmith import lifecycle

        tell(say("cli.verifying", path=str(work.path)))
        certificate = lifecycle.verify(work, replay=replay)
    tell(say("cli.verify_hashes"))
    steps = None
    if certificate is not None:
        steps = {"first": certificate.first, "last": certificate.last}
        tell(say("cli.verify_replayed", **steps))
    answer({"run": str(work.path), "verified": True, "replayed": steps})
