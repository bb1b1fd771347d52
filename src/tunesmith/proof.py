"""Proofs of a finished run: its bytes are as recorded, its training resumes, its artefacts answer alike."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT
from tunesmith.core.files import ASIDE, MANIFEST, read_json, read_manifest, verify_folder, write_atomic, write_json
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import CERTIFICATE, METRICS
from tunesmith.data import prepare as data_room
from tunesmith.data.near_stored import refuse_near_leaks
from tunesmith.lifecycle import class_shippings, shipping
from tunesmith.recipe.chain import is_merged
from tunesmith.recipe.recipe import StageSpec
from tunesmith.runtime.start import start as start_runtime
from tunesmith.ship.classes import check_published_classes
from tunesmith.ship.publish import check_published
from tunesmith.ship.received import MERGED, write_merged
from tunesmith.train.certify import Certificate, certify
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.rehearse import Command, Rehearsal, Teller, as_page, play, rehearse
from tunesmith.training import build_stage
from tunesmith.work import Work, machine_now, reopen

CERTIFICATE_PAGE = "resume_certificate.md"


def verify(work: Work, *, replay: bool = True) -> Certificate | None:
    """Check a run again: hashes, ledger, split, checkpoints and artefacts; the resume; the parity of what is published.

    Args:
        replay: merge again what stages have handed on (`check_handed_on`), hold the artefacts against the evaluated
            model again (`check_artefacts`), and train the steps between the two newest checkpoints again
            (`certify_resume`). Without, only what is on disk is checked and None is
            returned.

    Errors: core.hash_differs, core.missing_file, core.unknown_file, core.ledger_unbalanced, data.leak,
    data.near_leak, and those of `check_handed_on`, `check_artefacts` and `certify_resume`.
    """
    work.run.check_files()
    frames = data_room.load_tables(work.path)
    Ledger.load(work.path / "ledger.jsonl").check(row for frame in frames.values() for row in frame["row"])
    refuse_near_leaks(frames, work.recipe)
    for folder in sorted(path.parent for path in work.path.glob(f"*/*/{MANIFEST}")):
        verify_folder(folder)
        work.events.emit("verified", folder=str(folder.relative_to(work.path)))
    if not replay:
        return None
    check_handed_on(work)
    check_artefacts(work)
    return certify_resume(work)


def check_artefacts(work: Work) -> None:
    """Hold what is published against the evaluated model again. Errors: those of `check_published`."""
    if (work.path / "ship").is_dir():
        if work.head is not None:
            for each in class_shippings(work, work.head):
                check_published_classes(each, work.events)
        else:
            check_published(shipping(work), work.events)


def check_handed_on(work: Work) -> None:
    """Merge again what stages have handed on, and hold the weights against those that the next stage stood on.

    Errors: lifecycle.merge_differs, those of `write_merged`.
    """
    for stage in work.recipe.stages:
        if not is_merged(work.recipe, stage):
            continue
        aside, folder = work.path / f"{ASIDE}merged", work.path / stage.name / MERGED
        try:
            write_merged(aside, work.run, work.recipe, stage, work.base(), work.head_of(stage))
            equal = read_manifest(aside)["files"] == read_manifest(folder)["files"]
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        if not equal:
            raise TunesmithError("lifecycle.merge_differs", stage=stage.name, path=str(folder))
        work.events.emit("verified", folder=str(folder.relative_to(work.path)))


def certify_resume(work: Work) -> Certificate:
    """Train the steps between the two newest checkpoints of each stage again; the certificates are kept in the run and
    on its card. An earlier stage that has only one checkpoint has no such steps.

    Returns:
        that of the last stage.

    Errors: lifecycle.nothing_to_certify, lifecycle.not_certified.
    """
    *earlier, last = work.recipe.stages
    for stage in earlier:
        if len(checkpoint_paths(work.path / stage.name)) > 1:
            _certify_stage(work, stage, f"replay {stage.name}")
    return _certify_stage(work, last, "replay")


def _certify_stage(work: Work, stage: StageSpec, proof: str) -> Certificate:
    aside = work.path / f"{ASIDE}replay"
    runtime = start_runtime(work.recipe.runtime)
    try:
        certificate = certify(
            work.path / stage.name, aside, lambda folder: build_stage(work, stage, runtime, folder, SILENT)
        )
    finally:
        runtime.close()
    _keep_proof(work, proof, asdict(certificate), certificate.equal)
    if not certificate.equal:
        files = ", ".join(certificate.differing)
        raise TunesmithError("lifecycle.not_certified", first=certificate.first, last=certificate.last, files=files)
    return certificate


def certify_kill(work: Work, command: Command) -> Rehearsal:
    """Kill a short copy of the training with SIGKILL, resume it, and hold it against one that was not killed.

    The certificate is kept in the run, as facts and as a page in both languages. `command` says how the process for a
    folder is started; it calls `rehearse_in`. Errors: those of `rehearse`, lifecycle.not_resumed.
    """
    aside = work.path / f"{ASIDE}rehearsal"
    machine = machine_now(work.recipe)
    try:
        found = rehearse(aside, command, random.Random())
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    with work.run.replacing(work.path / CERTIFICATE_PAGE):
        write_atomic(work.path / CERTIFICATE_PAGE, as_page(found, machine))
    _keep_proof(work, "kill", {**asdict(found), "machine": machine}, found.equal)
    if not found.equal:
        files = ", ".join(found.differing) or METRICS
        raise TunesmithError("lifecycle.not_resumed", step=found.killed_after, files=files)
    return found


def rehearse_in(path: Path, folder: Path, like: Path | None, stream: IO[str]) -> None:
    """One process of `certify_kill`: the short copy of the last stage in a folder, told to a stream."""
    work = reopen(path, ())
    runtime = start_runtime(work.recipe.runtime)
    try:
        play(build_stage(work, work.recipe.stages[-1], runtime, folder, Teller(stream)), like)
    finally:
        runtime.close()


def _keep_proof(work: Work, name: str, facts: Mapping[str, object], equal: bool) -> None:
    """Enter one proof of resuming into the certificate, which holds when all its proofs do."""
    path = work.path / CERTIFICATE
    before = read_json(path).get("proofs") if path.exists() else None
    proofs = {**(before if isinstance(before, dict) else {}), name: {**facts, "equal": equal}}
    with work.run.replacing(path):
        write_json(path, {"equal": all(each["equal"] for each in proofs.values()), "proofs": proofs})
