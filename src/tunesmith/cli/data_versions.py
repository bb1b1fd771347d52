"""`tunesmith data diff ONE OTHER`, `data card RUN`, `data versions`: which rows, how they differ, who used them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.data_corpus import card_of_corpus, holds_corpus
from tunesmith.cli.data_media import card_of_media, holds_media
from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RUNS, RunArgument, RunsOption
from tunesmith.cli.rows import compared_of
from tunesmith.cli.stages import run_until
from tunesmith.cli.work import find_run
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.core.lineage import DATA_VERSION, runs_by_version
from tunesmith.core.run import Run
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.data.diff import Compared, Difference

OneArgument = Annotated[Path, typer.Argument(metavar="ONE", help="cli.arg_rows", show_default=False)]
OtherArgument = Annotated[Path, typer.Argument(metavar="OTHER", help="cli.arg_other_rows", show_default=False)]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="cli.opt_diff_out", show_default=False)]
_SHORT = 12
_VERSION = re.compile("[0-9a-f]{8,64}")


def diff(one: OneArgument, other: OtherArgument, out: OutOption = None, runs: RunsOption = RUNS) -> None:
    """Say which rows were added, removed, changed or moved to another split, and why."""
    from tunesmith.data.diff import compare

    if out is not None and out.exists():
        raise TunesmithError("recipe.exists", path=str(out))
    before, after = (compared_of(_of_version(each, runs)) for each in (one, other))
    found = compare(before, after)
    for side in (before, after):
        tell(say("versions.side", name=side.name, version=side.version.id[:_SHORT], rows=_rows(side)), "bold")
    _tell_changes(found)
    differing = _settings(before.settings, after.settings)
    for name, (left, right) in differing.items():
        tell(f"    {name}: {_shown(left)} → {_shown(right)}")
    if out is not None:
        write_atomic(out, "".join(f"{line}\n" for line in _lines(found, before, after)))
        tell(say("versions.diff_written", rows=len(found.changes), path=str(out)))
    counts = [
        {"change": kind, "reason": reason, "detail": detail, "rows": rows}
        for (kind, reason, detail), rows in found.counts().items()
    ]
    sides = [{"name": each.name, **each.version.facts(), "rows": dict(each.version.rows)} for each in (before, after)]
    answer({"one": sides[0], "other": sides[1], "same": found.same, "changes": counts, "settings": differing})


def card(run: RunArgument, runs: RunsOption = RUNS) -> None:
    """Name the data card of a run, its version, and the runs that learned from the same rows."""
    if holds_media(run):
        card_of_media(run)
        return
    if holds_corpus(run):
        card_of_corpus(run)
        return
    path = _with_data(run, runs)
    version = str(Run.open(path).manifest()[DATA_VERSION])
    cards = {each.suffix[1:]: str(each) for each in sorted(path.glob("data_card.*"))}
    tell(say("versions.version", version=version))
    for each in cards.values():
        tell(f"    {each}")
    used = [
        str(each.path)
        for each in runs_by_version(_root(path)).get(version, [])
        if each.path.resolve() != path.resolve()
    ]
    for each in used:
        tell(say("versions.used_by", run=each))
    answer({"run": str(path), "version": version, "card": cards, "used_by": used})


def versions(runs: RunsOption = RUNS) -> None:
    """List the data versions of a folder of runs, oldest first, with the runs that used each."""
    found = runs_by_version(runs)
    if not found:
        tell(say("cli.no_runs", path=str(runs)))
    for version, users in found.items():
        tell(say("versions.version", version=version), "bold")
        for each in users:
            tell(f"    {each.path}")
    listed = [{"version": version, "runs": [str(each.path) for each in users]} for version, users in found.items()]
    answer({"versions": listed})


def _of_version(path: Path, runs: Path) -> Path:
    """The newest run of the version that is named in place of a path; any other path stays as it is.

    Errors: versions.unknown_version.
    """
    if path.exists() or not _VERSION.fullmatch(str(path)):
        return path
    known = runs_by_version(runs)
    found = [users[-1].path for version, users in known.items() if version.startswith(str(path))]
    if len(found) != 1:
        listed = ", ".join(version[:_SHORT] for version in known) or "-"
        raise TunesmithError("versions.unknown_version", version=str(path), runs=str(runs), known=listed)
    return found[0]


def _with_data(run: Path, runs: Path) -> Path:
    """The run that a path names, with its rows made ready; one that has them is only looked at."""
    if run.is_dir():
        path = find_run(run)
        if DATA_VERSION in Run.open(path).manifest():
            return path
    return run_until(run, "data", runs)


def _root(run: Path) -> Path:
    """The folder of all runs that a run lies in."""
    return run.resolve().parent.parent


def _rows(side: Compared) -> str:
    return ", ".join(f"{name} {rows:,}".strip() for name, rows in side.version.rows.items())


def _tell_changes(found: Difference) -> None:
    tell(f"    {say('versions.same', rows=f'{found.same:,}')}")
    for (kind, reason, detail), rows in found.counts().items():
        words = say(f"versions.why_{reason}")
        because = f"{words}: {_reason(detail)}" if detail else words
        tell(f"    {say(f'versions.{kind}', rows=f'{rows:,}', reason=because)}")


def _reason(detail: str) -> str:
    try:
        return say(f"data.reason_{detail}")
    except KeyError:
        return detail


def _settings(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, list[object]]:
    names = [*one, *(name for name in other if name not in one)]
    return {name: [one.get(name), other.get(name)] for name in names if one.get(name) != other.get(name)}


def _shown(value: object) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)


def _lines(found: Difference, before: Compared, after: Compared) -> Iterator[str]:
    """A line of JSON for every change: where, why, and what the row says on either side."""
    numbers = ([change.row_before for change in found.changes], [change.row_after for change in found.changes])
    rows = [side.contents(each) for side, each in zip((before, after), numbers, strict=True)]
    for change in found.changes:
        facts: dict[str, object] = dict(vars(change))
        for name, number, known in zip(("before", "after"), (change.row_before, change.row_after), rows, strict=True):
            if number >= 0:
                facts[name] = known[number]
        yield json.dumps(facts, ensure_ascii=False)
