"""`tunesmith data check WHAT` and `data sample WHAT`: is this data fit to learn from, and what does it say."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.data_corpus import check_corpus, holds_corpus, sample_corpus
from tunesmith.cli.manner import answer, tell
from tunesmith.cli.rows import looked_at, refuse_dropped, side_of, tell_fates, visible
from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import LOCK, Run
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.data.diff import Side
    from tunesmith.data.prepared import Prepared

WhatArgument = Annotated[Path, typer.Argument(metavar="ROWS", help="cli.arg_rows", show_default=False)]
StrictOption = Annotated[bool, typer.Option("--strict", help="cli.opt_strict")]
RowsOption = Annotated[int, typer.Option("--rows", min=1, metavar="N", help="cli.opt_rows")]
SplitOption = Annotated[str, typer.Option("--split", metavar="NAME", help="cli.opt_split", show_default=False)]
SeedOption = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="cli.opt_sample_seed")]


def check(rows: WhatArgument, strict: StrictOption = False) -> None:
    """Say what would become of rows, or hold what a run holds against its hashes, ledger and sources."""
    if holds_corpus(rows):
        check_corpus(rows, strict)
        return
    what, side, prepared = looked_at(rows)
    tell(say(f"versions.checked_{what}", path=side.name), "bold")
    tell(f"    {say('versions.version', version=side.version.id)}")
    for name, count in side.version.rows.items():
        tell(f"    {say('versions.table_rows', name=name or say('versions.all_rows'), rows=f'{count:,}')}")
    fates = dict(side.ledger.totals())
    tell_fates(fates, side.ledger.changed())
    notes = _notes(prepared)
    for note in notes:
        tell(f"    - {note}")
    passed = _prove(side) if what == "run" else []
    for name in passed:
        tell(f"    ✓ {say(f'versions.proved_{name}')}")
    if strict:
        refuse_dropped(side.name, fates)
    facts = {**side.version.facts(), "rows": dict(side.version.rows), "fates": fates}
    answer({"checked": what, "path": side.name, **facts, "notes": notes, "proved": passed})


def sample(rows: WhatArgument, count: RowsOption = 3, split: SplitOption = "", seed: SeedOption = 0) -> None:
    """Show rows drawn at random, as they will be learned."""
    if holds_corpus(rows):
        sample_corpus(rows, count, split, seed)
        return
    from tunesmith.data.readable import readable

    side = side_of(rows)
    if split and split not in side.tables:
        known = ", ".join(name for name in side.tables if name) or "-"
        raise TunesmithError("versions.no_table", name=split, path=side.name, known=known)
    tables = {name: frame for name, frame in side.tables.items() if split in ("", name)}
    places = [(name, place) for name, frame in tables.items() for place in range(len(frame))]
    chosen = random.Random(seed).sample(places, min(count, len(places)))
    shown: list[dict[str, object]] = []
    for name, place in sorted(chosen):
        row = tables[name].row(place, named=True)
        origin = {key: row[key] for key in ("row", "source", "index")}
        shown.append({**origin, "split": name, "content": readable(row)})
        tell()
        tell(say("versions.row_at", **origin, split=name or "-"), "bold")
        _tell_row(readable(row))
    answer({"path": side.name, "rows": shown})


def _notes(prepared: Prepared | None) -> list[str]:
    if prepared is None:
        return []
    return [say(note.code, **note.facts) for note in prepared.all_notes]


def _prove(side: Side) -> list[str]:
    """What of a run was proved; reading the tables has held their hashes and the wall between splits already.

    Errors: core.hash_differs, core.ledger_unbalanced, data.near_leak, data.source_changed.
    """
    from tunesmith.data.near_stored import looks_for_near, refuse_near_leaks
    from tunesmith.recipe.identity import refuse_changed_sources
    from tunesmith.recipe.load import load_recipe

    run = Run.open(Path(side.name))
    run.check_files("data", "ledger.jsonl")
    Ledger.check(side.ledger, (row for frame in side.tables.values() for row in frame["row"]))
    manifest, recipe = run.manifest(), load_recipe(run.path / LOCK)
    refuse_near_leaks(side.tables, recipe)
    refuse_changed_sources(recipe, Path(str(manifest["recipe_folder"])), manifest.get("sources"))
    near = ["near"] if looks_for_near(recipe) else []
    return ["hashes", "leaks", *near, "version", "ledger", "sources"]


def _tell_row(content: Mapping[str, object]) -> None:
    for name, value in content.items():
        if isinstance(value, dict):
            _tell_parts(name, [value])
        elif name == "boxes" and isinstance(value, list):
            _tell_parts(name, value)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            if name != "messages":
                tell(f"  {name}", "dim")
            for turn in value:
                tell(f"  {turn['role']}: {visible(str(turn['content']))}")
                if "tool_calls" in turn:
                    tell(f"    {visible(str(turn['tool_calls']))}", "dim")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            tell(f"  {name}: {visible(shown)}")


def _tell_parts(name: str, values: Sequence[Mapping[str, object]]) -> None:
    """What a row is about, or each box in it, on one line, without what is empty."""
    for value in values:
        parts = (
            f"{part} {round(each, 2) if isinstance(each, float) else each}" for part, each in value.items() if each
        )
        tell(f"  {name}: {visible(', '.join(parts))}")
