"""The best step and the end of patience, with values that are no numbers among them."""

from __future__ import annotations

import json

import pytest

from tunesmith.recipe.specs.train import EarlyStoppingSpec
from tunesmith.train.stopper import Stopper


def after(stopper: Stopper, *values: float) -> list[bool]:
    return [stopper.see(value, step) for step, value in enumerate(values, start=1)]


def test_losses_fall_and_metrics_rise() -> None:
    loss = Stopper.of(EarlyStoppingSpec(patience=2))
    assert after(loss, 3, 2, 2, 1.5, 4) == [True, True, False, True, False]
    assert (loss.best_value, loss.best_step, loss.without_gain, loss.stop) == (1.5, 4, 1, False)
    metric = Stopper.of(EarlyStoppingSpec(metric="json_exact", patience=2))
    assert after(metric, 0, 0.2, 0.1, 0.2) == [True, True, False, False]
    assert (metric.best_value, metric.best_step, metric.stop) == (0.2, 2, True)


@pytest.mark.parametrize("metric", ["loss", "rouge_l"])
def test_what_is_no_number_is_never_the_best(metric: str) -> None:
    stopper = Stopper(metric, patience=3)
    infinite = float("inf")
    assert after(stopper, float("nan"), infinite, -infinite) == [False] * 3
    assert stopper.best_value is None and stopper.stop
    assert stopper.see(1.0, 4) and not stopper.stop and stopper.best_step == 4
    assert not stopper.see(float("nan"), 5) and not stopper.see(infinite, 6) and not stopper.see(-infinite, 7)
    assert stopper.best_value == 1.0


def test_without_patience_it_never_stops() -> None:
    stopper = Stopper("loss", None)
    after(stopper, *range(1, 100))
    assert not stopper.stop and stopper.best_step == 1 and stopper.without_gain == 98


def test_its_state_survives_a_checkpoint() -> None:
    stopper = Stopper("loss", 2)
    after(stopper, 3, 4)
    again = Stopper("loss", 2)
    again.restore(json.loads(json.dumps(stopper.state())))
    assert again == stopper
    assert again.see(5, 3) is False and again.stop
