"""`tunesmith verify RUN`: every hash, the ledger, the split, every artefact, and the resume, checked again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.data_media import media_run
from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RunArgument
from tunesmith.cli.rehearse import command
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import opened
from tunesmith.messages import say

ReplayOption = Annotated[bool, typer.Option("--replay/--no-replay", help="cli.opt_replay")]


ResumeOption = Annotated[bool, typer.Option("--resume", help="cli.opt_resume")]


def verify(run: RunArgument, replay: ReplayOption = True, resume: ResumeOption = False) -> None:
    """Check a run again; with `--resume` the proof is a training that is killed and resumed, in place of a replay."""
    rows_alone = media_run(run)
    if rows_alone is not None:
        _verify_rows(rows_alone)
        return
    with Terminal() as listener, opened(run, listener) as work:
        from tunesmith import proof

        tell(say("cli.verifying", path=str(work.path)))
        certificate = proof.verify(work, replay=replay and not resume)
        if resume:
            if replay:
                proof.check_artefacts(work)
            tell(say("cli.verify_killing"))
        killed = proof.certify_kill(work, command(work.path)) if resume else None
    tell(say("cli.verify_hashes"))
    steps = None
    if certificate is not None:
        steps = {"first": certificate.first, "last": certificate.last}
        tell(say("cli.verify_replayed", **steps))
    if killed is not None:
        tell()
        tell((work.path / proof.CERTIFICATE_PAGE).read_text("utf-8"))
        tell(say("cli.verify_certificate", path=str(work.path / proof.CERTIFICATE_PAGE)))
    resumed = None if killed is None else {**asdict(killed), "equal": killed.equal}
    answer({"run": str(work.path), "verified": True, "replayed": steps, "resumed": resumed})


def _verify_rows(path: Path) -> None:
    """A run that holds prepared rows alone. Errors: those of `check_rows`."""
    from tunesmith.data.media_run import check_rows

    tell(say("cli.verifying", path=str(path)))
    check_rows(path)
    tell(say("cli.verify_hashes"))
    answer({"run": str(path), "verified": True, "replayed": None, "resumed": None})
