"""`tunesmith data gain RECIPE`: what cleaning rows and labels has gained, by training on raw and on cleaned rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.options import RUNS, RecipeArgument, RunsOption
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.words import percent
from tunesmith.cli.work import started
from tunesmith.messages import say
from tunesmith.recipe.load import load_recipe

if TYPE_CHECKING:
    from tunesmith.gain import MetricGain, Side
    from tunesmith.recipe.recipe import Recipe

SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=20, metavar="N", help="cli.opt_gain_seeds")]


def gain(recipe: RecipeArgument, runs: RunsOption = RUNS, seeds: SeedsOption = 1) -> None:
    """Train the recipe on raw and on cleaned rows, and say what cleaning alone has gained."""
    stated = load_recipe(recipe)
    raw: list[Side] = []
    cleaned: list[Side] = []
    for further in range(seeds):
        seeded = _seeded(stated, further)
        tell(say("cli.gain_cleaned", number=further + 1, seeds=seeds), "bold")
        side, changes = _cleaned(recipe, seeded, runs)
        cleaned.append(side)
        tell(say("cli.gain_raw", number=further + 1, seeds=seeds), "bold")
        raw.append(_raw(recipe, [*seeded, *changes], runs))
    _show(stated, raw, cleaned)


def _seeded(stated: Recipe, further: int) -> list[str]:
    """Overrides for one of several seeds; the first is the recipe's own, so that its run is used where there is one."""
    stages = enumerate(stated.stages) if further else ()
    return [f"stages.{place}.train.seed={stage.train.seed + further}" for place, stage in stages]


def _cleaned(recipe: Path, overrides: Sequence[str], runs: Path) -> tuple[Side, list[str]]:
    """The recipe as it is, and what makes it learn from raw rows."""
    with Terminal() as listener, started(recipe, overrides, runs, listener) as work:
        from tunesmith.gain import SUFFIX, raw_overrides, trained

        side = trained(work)
        folder = runs.resolve() / f"{work.recipe.name}{SUFFIX}" / f"rows-{work.path.name}"
        return side, raw_overrides(work, side, folder)


def _raw(recipe: Path, overrides: Sequence[str], runs: Path) -> Side:
    with Terminal() as listener, started(recipe, overrides, runs, listener) as work:
        from tunesmith.gain import trained

        return trained(work)


def _show(recipe: Recipe, raw: Sequence[Side], cleaned: Sequence[Side]) -> None:
    from tunesmith.gain import compare

    tell()
    for code, side in (("gain_rows_raw", raw[0]), ("gain_rows_cleaned", cleaned[0])):
        tell(say(f"cli.{code}", rows=side.rows, steps=sum(side.steps.values())))
    found = compare(recipe, raw, cleaned)
    for each in found:
        tell(f"    {_line(each)}")
    tell(say("cli.gain_meaning", questions=sum(map(len, cleaned[0].questions.values())), seeds=len(raw)), "dim")
    sides = {
        name: [{"run": str(each.run), "rows": each.rows, "steps": dict(each.steps)} for each in side]
        for name, side in (("raw", raw), ("cleaned", cleaned))
    }
    answer({**sides, "gain": [asdict(each) for each in found]})


def _line(found: MetricGain) -> str:
    facts = {"metric": found.metric, "raw": percent(found.raw), "cleaned": percent(found.cleaned)}
    if found.gained is None:
        return say("cli.gain_line_alone", **facts)
    gained, low, high = (f"{100 * each:+.1f}" for each in (found.gained.value, found.gained.low, found.gained.high))
    return say("cli.gain_line", gained=gained, low=low, high=high, **facts)
