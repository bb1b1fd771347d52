"""`tunesmith data corpus RECIPE --out FOLDER`: texts that do not fit into memory, cleaned and split in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RecipeArgument
from tunesmith.messages import say
from tunesmith.recipe.load import load_recipe

CorpusOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="cli.opt_corpus_out")]
CORPUS = Path("corpus")


def corpus(recipe: RecipeArgument, out: CorpusOption = CORPUS) -> None:
    """Clean the texts of a recipe, drop duplicates and split, a piece at a time; goes on where it was stopped."""
    from tunesmith.data.corpus.build import build_corpus

    report = build_corpus(load_recipe(recipe).data, recipe.resolve().parent, out)
    for label, rows in report.fates.items():
        tell(f"    {label}: {rows:,}")
    for name, rows in report.splits.items():
        tell(f"    {name}: {rows:,}")
    tell(say("cli.corpus_written", path=str(out), megabytes=report.bytes // 10**6))
    facts = {"fates": report.fates, "splits": report.splits, "bytes": report.bytes, "seconds": report.seconds}
    answer({"out": str(out), **facts})
