"""`tunesmith runs list|diff|prune`: what was run, how two runs differ, and what may go."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RUNS, RunsOption
from tunesmith.cli.results import measured
from tunesmith.cli.terminal import STAGES
from tunesmith.cli.words import percent
from tunesmith.cli.work import find_run
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_bytes, is_whole, read_manifest, remove_folder
from tunesmith.core.run import LOCK, Run, list_runs
from tunesmith.messages import render, say
from tunesmith.recipe.load import load_recipe

FirstArgument = Annotated[Path, typer.Argument(metavar="RUN", help="cli.arg_run", show_default=False)]
SecondArgument = Annotated[Path, typer.Argument(metavar="OTHER", help="cli.arg_other_run", show_default=False)]
KeepOption = Annotated[int, typer.Option("--keep", min=1, metavar="N", help="cli.opt_keep")]
YesOption = Annotated[bool, typer.Option("--yes", help="cli.opt_yes")]


def list_them(runs: RunsOption = RUNS) -> None:
    """List the runs of a folder, oldest first."""
    found = [_summary(run) for run in list_runs(runs)]
    if not found:
        tell(say("cli.no_runs", path=str(runs)))
    for each in found:
        tell(str(each["run"]), "bold")
        words = say("cli.run_line", stage=_stage_words(each), figures=_figures(each["tuned"]))
        tell(f"    {say('cli.run_damaged', reason=str(each['damaged'])) if 'damaged' in each else words}")
    answer({"runs": found})


def _summary(run: Run) -> dict[str, object]:
    """How far a run is and what it has measured; of a damaged one, what is wrong."""
    try:
        done, tuned = run.manifest().get("stages"), measured(run.path).get("tuned", {})
    except TunesmithError as error:
        return {"run": str(run.path), "stage": "", "tuned": {}, "damaged": render(error).cause}
    found = done if isinstance(done, dict) else {}
    stages = [name for name in STAGES if name in found]
    fits = [name.partition("/")[2] for name in found if name.startswith("train/")]
    return {"run": str(run.path), "stage": stages[-1] if stages else "", "fits": fits, "tuned": tuned}


def _stage_words(summary: Mapping[str, object]) -> str:
    """The last stage of the life cycle that is done, and the training stages where some of several are."""
    stage, fits = str(summary["stage"]), summary.get("fits")
    words = say(f"cli.stage_{stage}") if stage else "-"
    if not isinstance(fits, list) or not fits or STAGES.index(stage) >= STAGES.index("train"):
        return words
    return say("cli.run_fits", stage=words, fits=", ".join(str(each) for each in fits))


def _figures(metrics: object) -> str:
    listed = metrics if isinstance(metrics, dict) else {}
    return ", ".join(f"{name} {percent(float(value))}" for name, value in listed.items()) or "-"


def diff(run: FirstArgument, other: SecondArgument) -> None:
    """Show the settings, versions and metrics in which two runs differ."""
    first, second = (_facts(find_run(path)) for path in (run, other))
    differing = {
        name: [first.get(name), second.get(name)]
        for name in [*first, *(each for each in second if each not in first)]
        if first.get(name) != second.get(name)
    }
    for name, (left, right) in differing.items():
        tell(f"  {name}: {_shown(left)} → {_shown(right)}")
    if not differing:
        tell(say("cli.no_difference"))
    answer({"run": str(run), "other": str(other), "differences": differing})


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _facts(path: Path) -> dict[str, object]:
    """Everything that two runs can differ in, flat: settings, versions, metrics."""
    manifest = read_manifest(path)
    facts = {
        "recipe": load_recipe(path / LOCK).model_dump(mode="json"),
        "versions": manifest.get("versions"),
        "base_sha256": manifest.get("base_sha256"),
        "metrics": measured(path),
    }
    return _flat(facts, "")


def _flat(value: object, prefix: str) -> dict[str, object]:
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {prefix.rstrip("."): value}
    found: dict[str, object] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}{name}.")
    return found


def prune(runs: RunsOption = RUNS, keep: KeepOption = 2, yes: YesOption = False) -> None:
    """Remove old checkpoints; the newest of each stage and the best stay, so that a run can go on."""
    going: list[Path] = []
    in_use: list[Path] = []
    size = 0
    for run in list_runs(runs):
        try:
            with run.owned() if yes else _unowned(run):
                old = _old_checkpoints(run.path, keep)
                size += sum(folder_bytes(each) for each in old)
                for each in old if yes else ():
                    _remove(each)
        except TunesmithError as error:
            if error.code != "core.run_in_use":
                raise
            in_use.append(run.path)
            continue
        going += old
    for path in going:
        tell(f"    {path}")
    for path in in_use:
        tell(say("cli.prune_in_use", path=str(path)))
    tell(say("cli.prune_sum", folders=len(going), size=f"{size / 2**20:,.0f} MiB"))
    if going and not yes:
        tell(say("cli.prune_ask"))
    listed, skipped = [str(path) for path in going], [str(path) for path in in_use]
    answer({"removed" if yes else "would_remove": listed, "bytes": size, "in_use": skipped})


@contextmanager
def _unowned(run: Run) -> Iterator[None]:
    """A look at a run, which changes nothing in it. Errors: core.run_in_use."""
    run.refuse_if_owned()
    yield


def _old_checkpoints(run: Path, keep: int) -> list[Path]:
    """The checkpoints of each stage that are older than the newest `keep` whole ones."""
    old: list[Path] = []
    for stage in sorted({path.parent for path in run.glob("*/checkpoint-*")}):
        numbered = [path for path in stage.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
        whole = 0
        for path in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
            if whole == keep:
                old.append(path)
            elif is_whole(path):
                whole += 1
    return sorted(old)


def _remove(path: Path) -> None:
    remove_folder(path)
    if path.exists():
        raise TunesmithError("core.not_writable", path=str(path), reason=os.strerror(errno.EACCES))
