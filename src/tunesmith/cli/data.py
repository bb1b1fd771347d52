"""`tunesmith data RECIPE`, `data collect RECIPE`, `data xray RECIPE|RUN`, `data rejected RUN`: rows fetched and made
ready, their masks, and what went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.data_corpus import refuse_corpus
from tunesmith.cli.data_media import holds_media, is_media_recipe, media_run, page_of_media, prepare_media
from tunesmith.cli.manner import answer, console, manner, tell
from tunesmith.cli.options import RUNS, RecipeArgument, RunArgument, RunsOption
from tunesmith.cli.rows import tell_fates
from tunesmith.cli.stages import run_until
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import find_run, opened
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import write_atomic
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import LOCK, Run
from tunesmith.messages import say
from tunesmith.recipe.identity import refuse_changed_sources
from tunesmith.recipe.load import load_recipe

if TYPE_CHECKING:
    from tunesmith.work import Work

RowsOption = Annotated[int, typer.Option("--rows", min=1, metavar="N", help="cli.opt_rows")]
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="cli.opt_rejected_out")]
REJECTED = Path("rejected.jsonl")
WRITTEN = {
    "card": "data_card.md",
    "ledger": "ledger.jsonl",
    "xray": "xray.html",
    "suspected": "suspected_labels.jsonl",
    "compliance": "compliance_report.md",
    "placeholders": "placeholders.sealed",
}
"""What rows leave in a run beside themselves, each where there is something to say."""


def prepare(recipe: RunArgument, runs: RunsOption = RUNS) -> None:
    """Read, clean, split and encode; every row's fate is in the ledger."""
    path = prepare_media(recipe, runs) if is_media_recipe(recipe) else run_until(recipe, "data", runs)
    ledger = Ledger.load(path / "ledger.jsonl")
    totals = dict(ledger.totals())
    tell_fates(totals, ledger.changed())
    files = {name: path / each for name, each in WRITTEN.items() if (path / each).exists()}
    for each in files.values():
        tell(f"    {each}")
    answer({"run": str(path), "fates": totals, **{name: str(each) for name, each in files.items()}})


def collect(recipe: RecipeArgument) -> None:
    """Fetch the rows of databases, hubs and object stores again; runs then use these."""
    from tunesmith.data.collect.fetch import collect as fetch
    from tunesmith.data.collect.lineage import lineage_of

    stated = load_recipe(recipe)
    places = fetch(stated.all_sources, recipe.resolve().parent, offline=stated.model.offline, again=True)
    found = [lineage_of(place) | {"path": str(place)} for place in places]
    for each in found:
        facts = {name: str(each.get(name, "-")) for name in ("from", "rows", "path")}
        tell(say("cli.collected", source=facts.pop("from"), **facts))
    if not found:
        tell(say("cli.nothing_to_collect"))
    answer({"collected": found})


def xray(run: RunArgument, rows: RowsOption = 3, runs: RunsOption = RUNS) -> None:
    """Show tokens and loss mask of the first training rows in colour; pictures with boxes, and sounds, on a page."""
    if holds_media(run) or media_run(run) is not None:
        page_of_media(run, rows)
        return
    refuse_corpus(run, "xray")
    path = run_until(run, "data", runs)
    with Terminal() as listener, opened(path, listener) as work:
        shown = _show(work, rows)
    tell()
    tell(say("cli.xray_page", path=str(path / "xray.html")))
    answer({"run": str(path), "xray": str(path / "xray.html"), "rows": shown})


def rejected(run: RunArgument, out: OutOption = REJECTED) -> None:
    """Write every dropped and merged row of a run into a file, with its reason, as its own file has it."""
    from tunesmith.data.rejected import rejected_rows

    refuse_corpus(run, "rejected")
    if out.exists():
        raise TunesmithError("recipe.exists", path=str(out))
    found = Run.open(find_run(run))
    recipe, manifest = load_recipe(found.path / LOCK), found.manifest()
    folder = Path(str(manifest["recipe_folder"]))
    refuse_changed_sources(recipe, folder, manifest.get("sources"))
    beside = [source for sources in recipe.sources_beside.values() for source in sources]
    rows = list(rejected_rows(recipe.data, folder, Ledger.load(found.path / "ledger.jsonl"), beside))
    write_atomic(out, "".join(f"{row}\n" for row in rows))
    tell(say("cli.rejected_written", rows=len(rows), path=str(out)))
    answer({"run": str(found.path), "rows": len(rows), "out": str(out)})


def _show(work: Work, rows: int) -> list[dict[str, object]]:
    """Print the rows; returns their tokens with weights for JSON."""
    from tunesmith.tasks.xray import as_terminal_text, heading, pieces

    found: list[dict[str, object]] = []
    for example in work.examples("train")[:rows]:
        encoded = work.task.encode(example)
        if not manner().as_json:
            console().print()
            console().print(heading(work.task, encoded), style="bold", markup=False)
            console().print(as_terminal_text(work.task, encoded))
        tokens = [{"text": each.text, "weight": each.weight} for each in pieces(work.task, encoded)]
        found.append({"row": example.row, "tokens": tokens})
    tell()
    tell(say("tasks.xray_legend"), "dim")
    return found
