"""Near prompts looked for again in stored tables: what was kept apart when rows were prepared is so still."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.types import SPLITS
from tunesmith.data.apart import near_pairs_across
from tunesmith.data.wall import Likeness
from tunesmith.recipe.recipe import Recipe, StageSpec

_SHOWN = 20
"""Pairs that an error names; it tells how many there are."""
_NONE = pl.DataFrame(
    schema={"name": pl.String, "row": pl.Int64, "other": pl.String, "partner": pl.Int64, "similarity": pl.Float64}
)
_ASKED = ("validation", "test")


def near_leaks(tables: Mapping[str, pl.DataFrame], recipe: Recipe) -> pl.DataFrame:
    """The pairs of rows with near prompts in tables that are to be apart, by the similarity that the recipe states.

    Columns: `name`, `row`, `other`, `partner`, `similarity` (Jaccard of shingles), the nearest pair first.
    """
    found = list(_leaks(tables, recipe))
    return (pl.concat(found) if found else _NONE).sort("similarity", "row", "partner", descending=[True, False, False])


def _leaks(tables: Mapping[str, pl.DataFrame], recipe: Recipe) -> Iterator[pl.DataFrame]:
    splits = {str(split): tables[split] for split in SPLITS}
    if recipe.data.clean.near_duplicates is not None:
        yield near_pairs_across(splits, recipe.data.clean.near_duplicates)
    asked = {name: splits[name] for name in _ASKED}
    for stage in recipe.stages:
        threshold = _nearest(recipe, stage)
        beside = [name for name in tables if name.rpartition("-")[0] == stage.name]
        for name in beside if threshold is not None else ():
            yield near_pairs_across({**asked, name: tables[name]}, threshold or 1.0).filter(name=name)
            if stage.data is not None and name.rpartition("-")[2] not in ("train", "validation"):
                judged_by = {"validation": tables[f"{stage.name}-validation"]}
                yield near_pairs_across({**judged_by, name: tables[name]}, threshold or 1.0)
        if stage.data is not None and stage.data.clean.near_duplicates is not None:
            own = {f"{stage.name}-{what}": tables[f"{stage.name}-{what}"] for what in ("validation", "train")}
            yield near_pairs_across(own, stage.data.clean.near_duplicates)


def _nearest(recipe: Recipe, stage: StageSpec) -> float | None:
    """From where on a row of a stage is too near to one that the evaluation asks."""
    return Likeness.of(recipe.data.clean, stage.data.clean if stage.data is not None else None).near


def looks_for_near(recipe: Recipe) -> bool:
    """Whether any rows of a recipe are compared by the likeness of their prompts."""
    return any(_nearest(recipe, stage) is not None for stage in recipe.stages)


def refuse_near_leaks(tables: Mapping[str, pl.DataFrame], recipe: Recipe) -> None:
    """Errors: data.near_leak, which names the pairs by the numbers of their rows."""
    found = near_leaks(tables, recipe)
    if len(found):
        pairs = "; ".join(
            f"{each['name']} {each['row']} ~ {each['other']} {each['partner']} ({each['similarity']:.2f})"
            for each in found.head(_SHOWN).iter_rows(named=True)
        )
        raise TunesmithError("data.near_leak", pairs=len(found), shown=min(len(found), _SHOWN), rows=pairs)
