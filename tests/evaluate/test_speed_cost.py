from __future__ import annotations

import numpy as np
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.evaluate.cost import cost
from tunesmith.evaluate.speed import Timing, speed


def test_percentiles_are_seen_values() -> None:
    seconds = [float(x) for x in range(1, 201)]
    found = speed([Timing(each, 10) for each in reversed(seconds)])
    expected = np.percentile(seconds, [50, 99], method="inverted_cdf")
    assert (found.p50_seconds, found.p99_seconds) == tuple(expected)
    assert found.tokens_per_second == pytest.approx(2000 / sum(seconds))


def test_overlapping_answers_share_the_wall_clock() -> None:
    found = speed([Timing(2.0, 30), Timing(2.0, 10)], wall_seconds=2.0)
    assert (found.answers, found.tokens_per_second, found.p50_seconds) == (2, 20.0, 2.0)
    with pytest.raises(TunesmithError, match=r"evaluate\.no_rows"):
        speed([])


def test_cost() -> None:
    found = cost({"train": 1800, "evaluate": 900}, machine_cost_per_hour=2.0, machines=2)
    assert found.hours_by_stage == {"train": 1.0, "evaluate": 0.5}
    assert (found.hours, found.money) == (1.5, 3.0)
    assert cost({"train": 60}).money is None
