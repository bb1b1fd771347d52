"""`tunesmith data corpus RECIPE --out FOLDER [--on ray]`: texts that do not fit into memory, cleaned and split in one
pass, by this machine or by a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.data_corpus import tell_corpus_fates
from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RecipeArgument
from tunesmith.core.errors import TunesmithError
from tunesmith.core.lock import locks_stay_here
from tunesmith.core.process import available_cores
from tunesmith.messages import say
from tunesmith.recipe.load import load_recipe

if TYPE_CHECKING:
    from tunesmith.data.corpus.executors import Executor
    from tunesmith.recipe.specs.data import DataSpec

CorpusOption = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="cli.opt_corpus_out")]
CORPUS = Path("corpus")


class Place(StrEnum):
    """Where the parts of a corpus are worked on."""

    HERE = "here"
    RAY = "ray"


OnOption = Annotated[Place, typer.Option("--on", help="cli.opt_on")]
AddressOption = Annotated[
    str, typer.Option("--address", metavar="HOST:PORT", help="cli.opt_address", show_default=False)
]


def corpus(
    recipe: RecipeArgument, out: CorpusOption = CORPUS, on: OnOption = Place.HERE, address: AddressOption = ""
) -> None:
    """Clean the texts of a recipe, drop duplicates and split, a piece at a time; goes on where it was stopped."""
    from tunesmith.data.corpus.build import build_corpus

    stated = load_recipe(recipe)
    if locks_stay_here(out.absolute().parent):
        tell(say("cli.corpus_lock_here", path=str(out)))
    with _executor(on, address, partial(_workers, stated.data, recipe.resolve().parent)) as executor:
        report = build_corpus(stated.data, recipe.resolve().parent, out, executor, compliance=stated.goal.compliance)
    tell_corpus_fates(report.fates, report.changed)
    for split, rows in report.splits.items():
        tell(f"    {say('versions.table_rows', name=split, rows=f'{rows:,}')}")
    for each in report.personal:
        tell(say("cli.corpus_personal", kind=say(f"data.pii_type_{each['type']}"), **each))
    for each in report.listed:
        tell(say("cli.corpus_listed", **each))
    tell(say("versions.version", version=report.version))
    tell(say("cli.corpus_written", path=str(out), megabytes=report.bytes // 10**6))
    answer({"out": str(out), **asdict(report)})


@contextmanager
def _executor(on: Place, address: str, workers: Callable[[], int]) -> Iterator[Executor]:
    """Errors: corpus.address, those of `on_ray` and of `workers`: how many this machine carries."""
    if on is Place.RAY:
        from tunesmith.data.corpus.on_ray import LOCAL, on_ray

        elsewhere = address or os.environ.get("RAY_ADDRESS")
        with on_ray(address, 0 if elsewhere and elsewhere != LOCAL else workers()) as executor:
            yield executor
        return
    if address:
        raise TunesmithError("corpus.address", address=address)
    from tunesmith.data.corpus.in_processes import in_processes

    with in_processes(workers()) as executor:
        yield executor


def _workers(spec: DataSpec, folder: Path) -> int:
    """How many processes the memory of this machine carries; said where these are fewer than its cores.

    Errors: those of `process_bytes` and `processes_for`.
    """
    from tunesmith.data.corpus.memory import process_bytes, processes_for

    needed = process_bytes(spec, folder)
    count = processes_for(needed)
    if count < available_cores():
        tell(say("cli.corpus_processes", count=count, cores=available_cores(), megabytes=-(-needed // 2**20)))
    return count
