"""What each of several stages learned and reached, from the events of the run: the lineage on the release card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunesmith.core.events import Event
from tunesmith.evaluate.method import method_of
from tunesmith.evaluate.wording import Words, words_of
from tunesmith.recipe.chain import start_of
from tunesmith.recipe.recipe import Recipe


@dataclass(frozen=True)
class StageFacts:
    """One stage: how it was trained and from what, on how many rows, and the validation figure that chose its best."""

    name: str
    method: str
    start: Words
    rows: int
    steps: int
    best_step: int
    metric: str
    value: str


def stages_of(recipe: Recipe, events: Sequence[Event], rows: Mapping[str, int]) -> tuple[StageFacts, ...]:
    """The stages in order; nothing where there is only one.

    Args:
        rows: rows by the name of their table.
    """
    ends = {event.values["stage"]: event.values for event in events if event.kind == "fit_end"}
    found: list[StageFacts] = []
    for stage in recipe.stages if len(recipe.stages) > 1 else ():
        end = ends[stage.name]
        found.append(
            StageFacts(
                stage.name,
                method_of(recipe, stage),
                words_of(f"card_start_{start_of(recipe, stage)}"),
                rows["train" if stage.data is None else f"{stage.name}-train"],
                int(end["steps"] or 0),
                int(end["best_step"] or 0),
                stage.train.early_stopping.metric,
                f"{float(end['best_value'] or 0):.4g}",
            )
        )
    return tuple(found)
