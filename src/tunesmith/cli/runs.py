"""`tunesmith runs list|diff|prune`: what was run, how two runs differ, and what may go."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
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
from tunesmith.core.files import fsync_path, read_manifest
from tunesmith.core.run import LOCK, Run, list_runs
from tunesmith.messages import say
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
        tell(f"    {say('cli.run_line', stage=_stage_words(str(each['stage'])), figures=_figures(each['tuned']))}")
    answer({"runs": found})


def _summary(run: Run) -> dict[str, object]:
    done = run.manifest().get("stages")
    stages = [name for name in STAGES if isinstance(done, dict) and name in done]
    return {"run": str(run.path), "stage": stages[-1] if stages else "", "tuned": measured(run.path).get("tuned", {})}


def _stage_words(stage: str) -> str:
    return say(f"cli.stage_{stage}") if stage else "-"


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
    going = [path for run in list_runs(runs) for path in _old_checkpoints(run.path, keep)]
    size = sum(each.stat().st_size for path in going for each in path.rglob("*") if each.is_file())
    for path in going:
        tell(f"    {path}")
    tell(say("cli.prune_sum", folders=len(going), size=f"{size / 2**20:,.0f} MiB"))
    if going and not yes:
        tell(say("cli.prune_ask"))
    if yes:
        for path in going:
            _remove(path)
    listed = [str(path) for path in going]
    answer({"removed" if yes else "would_remove": listed, "bytes": size})


def _old_checkpoints(run: Path, keep: int) -> list[Path]:
    old: list[Path] = []
    for stage in sorted({path.parent for path in run.glob("*/checkpoint-*")}):
        numbered = [path for path in stage.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
        old += sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]))[:-keep]
    return old


def _remove(path: Path) -> None:
    """Take a whole folder away, or nothing: no half checkpoint is left behind."""
    aside = path.with_name(f".aside-{path.name}")
    try:
        path.rename(aside)
        fsync_path(path.parent)
        shutil.rmtree(aside)
    except OSError as error:
        raise TunesmithError("core.not_writable", path=str(path), reason=str(error.strerror or error)) from error
