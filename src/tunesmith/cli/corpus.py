"""`tunesmith data corpus RECIPE --out FOLDER`: texts that do not fit into memory, cleaned and split in one pass."""

from __future__ import annotations

from dataclasses import asdict
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

    stated = load_recipe(recipe)
    report = build_corpus(stated.data, recipe.resolve().parent, out, compliance=stated.goal.compliance)
    for label, rows in (*report.fates.items(), *report.splits.items()):
        tell(f"    {label}: {rows:,}")
    for rule, counts in report.changed.items():
        tell(say("cli.corpus_changed", rule=rule, **counts))
    for each in report.personal:
        tell(say("cli.corpus_personal", kind=say(f"data.pii_type_{each['type']}"), **each))
    for each in report.listed:
        tell(say("cli.corpus_listed", **each))
    tell(say("cli.corpus_written", path=str(out), megabytes=report.bytes // 10**6))
    answer({"out": str(out), **asdict(report)})
