"""What a run has measured so far, read from its files: no heavy library is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from tunesmith.cli.manner import console, manner
from tunesmith.cli.words import percent
from tunesmith.core.events import read_events
from tunesmith.core.files import read_json
from tunesmith.core.run import METRICS
from tunesmith.messages import say

MODELS = ("majority", "naive_bayes", "dictionary", "base", "base_with_examples", "tuned")
"""Results that a run may have, the plainest first."""
CARD = "release_card.html"


def measured(run: Path) -> dict[str, dict[str, float]]:
    """Metrics by model, for the models that have answered."""
    found: dict[str, dict[str, float]] = {}
    for model in MODELS:
        path = run / "evaluate" / f"{model}.json"
        if path.is_file():
            found[model] = _metrics(path)
        for part in sorted(path.parent.glob(f"{model}-*.json")):
            task = part.stem.removeprefix(f"{model}-")
            found.setdefault(model, {}).update({f"{task}/{name}": each for name, each in _metrics(part).items()})
    return found


def _metrics(path: Path) -> dict[str, float]:
    metrics = read_json(path).get("metrics")
    return dict(metrics) if isinstance(metrics, dict) else {}


def efficiency(run: Path) -> dict[str, dict[str, object]]:
    """U, E and W with what they are made of, by training stage; empty before a training has ended."""
    return {str(each.values["stage"]): dict(each.values) for each in read_events(run / METRICS, "efficiency")}


def show_metrics(figures: Mapping[str, Mapping[str, float]]) -> None:
    """The table of metrics: a row a metric, a column a model."""
    if not figures or manner().as_json:
        return
    names = list(dict.fromkeys(name for metrics in figures.values() for name in metrics))
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(
        say("cli.metric"), no_wrap=True, min_width=max(map(len, names), default=0)
    )  # a cut name is nobody's
    for model in figures:
        table.add_column(say(f"cli.what_{model}"), justify="right")
    for name in names:
        values = [percent(metrics[name]) if name in metrics else "-" for metrics in figures.values()]
        table.add_row(name, *values)
    to = console()
    to.print()
    to.print(table)
