from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from scipy.stats import binomtest

from tunesmith.core.errors import TunesmithError
from tunesmith.evaluate.intervals import Interval, paired_gain, wilson
from tunesmith.evaluate.support_rate import (
    METRIC_REFEREE,
    Choice,
    Pair,
    Vote,
    ask,
    band_at,
    band_of,
    prompts_needed,
    support_rate,
    votes_by_metric,
)

PAIRS = [Pair(f"prompt {i}", f"good answer {i}", f"poor answer {i}") for i in range(40)]


@dataclass
class Judge:
    """Prefers by a planted rule and remembers what it was shown."""

    rule: str
    name: str = "planted judge"
    seen: list[tuple[str, str, str]] = field(default_factory=list)

    def judge(self, prompt: str, first: str, second: str) -> Choice:
        self.seen.append((prompt, first, second))
        if self.rule in ("first", "second", "tie"):
            return self.rule  # type: ignore[return-value]
        if self.rule == "good":
            return "first" if first.startswith("good") else "second"
        return self.rule  # type: ignore[return-value]


@pytest.mark.parametrize(("good", "total"), [(0, 10), (3, 10), (10, 10), (170, 200), (1, 1), (499, 1000)])
def test_wilson_is_scipy_s(good: int, total: int) -> None:
    expected = binomtest(good, total).proportion_ci(0.95, method="wilson")
    found = wilson(good / total, total)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.value <= found.high


def test_wilson_with_halves_still_covers() -> None:
    """Scores of 0, 1/2 and 1: the true mean lies inside at least as often as promised."""
    generator = random.Random(3)
    inside = 0
    for _ in range(600):
        scores = generator.choices([0, 0.5, 1], weights=[2, 3, 5], k=60)
        found = wilson(sum(scores) / 60, 60)
        inside += found.low <= 0.65 <= found.high
    assert inside / 600 >= 0.95


def test_a_paired_gain_is_narrower_than_its_rows_apart() -> None:
    generator = random.Random(5)
    old = [generator.random() for _ in range(200)]
    new = [value + 0.1 + 0.01 * generator.random() for value in old]
    found = paired_gain(new, old)
    assert found.value == pytest.approx(0.105, abs=0.002)
    assert found.high - found.low < 0.01
    assert found.low <= found.value <= found.high
    assert found == paired_gain(new, old)
    with pytest.raises(ValueError, match="1 scores against 2"):
        paired_gain([1], [1, 2])


def test_every_pair_is_asked_in_both_orders_and_shuffled() -> None:
    judge = Judge("good")
    found = support_rate(ask(judge, PAIRS, seed=7), judge.name)
    assert (found.rate.value, found.wins, found.band) == (1.0, 40, "marked_gain")
    assert (found.first_share, found.flipped) == (0.5, 0.0)
    assert len(set(judge.seen)) == 80
    assert {(p, b, a) for p, a, b in judge.seen} == set(judge.seen)
    prompts = [prompt for prompt, _, _ in judge.seen]
    assert prompts != sorted(prompts)
    new_first = [first.startswith("good") for _, first, _ in judge.seen]
    assert 10 < sum(new_first[:40]) < 30, "the place of the new answer would give it away"
    again = Judge("good")
    ask(again, PAIRS, seed=7)
    assert again.seen == judge.seen
    other = Judge("good")
    ask(other, PAIRS, seed=8)
    assert other.seen != judge.seen


@pytest.mark.parametrize(
    ("rule", "first_share", "flipped"), [("first", 1.0, 1.0), ("second", 0.0, 1.0), ("tie", 0.5, 0.0)]
)
def test_a_judge_who_looks_at_places_only_decides_nothing(rule: str, first_share: float, flipped: float) -> None:
    found = support_rate(ask(Judge(rule), PAIRS, seed=1), "x")
    assert (found.rate.value, found.ties) == (0.5, 40)
    assert (found.first_share, found.flipped) == (first_share, flipped)
    assert found.band is None


def test_a_judge_who_says_something_else_is_stopped() -> None:
    with pytest.raises(TunesmithError, match=r"evaluate\.unknown_choice"):
        ask(Judge("A"), PAIRS, seed=1)


def test_the_metric_referee() -> None:
    found = support_rate(votes_by_metric([1, 1, 0, 0.5], [0, 1, 1, 0.4]))
    assert found.referee == METRIC_REFEREE
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.rate.value == 0.625
    assert (found.first_share, found.flipped) == (0.5, 0.0)
    with pytest.raises(TunesmithError, match=r"evaluate\.rows_differ"):
        votes_by_metric([1], [])
    with pytest.raises(TunesmithError, match=r"evaluate\.no_rows"):
        support_rate([])


def test_half_a_vote() -> None:
    assert Vote("first", "tie").points() == 0.75
    assert Vote("first", "first").points() == 0.5
    assert Vote("tie", "first").points() == 0.25


@pytest.mark.parametrize(
    ("rate", "band"),
    [(0.0, "worse"), (0.4999, "worse"), (0.5, "unsatisfactory"), (0.6999, "unsatisfactory"),
     (0.7, "success"), (0.8, "success"), (0.8001, "marked_gain"), (1.0, "marked_gain")],
)  # fmt: skip
def test_bands(rate: float, band: str) -> None:
    assert band_at(rate) == band


def test_the_band_is_withheld_when_the_interval_crosses_an_edge() -> None:
    assert band_of(Interval(0.75, 0.71, 0.79)) == "success"
    assert band_of(Interval(0.75, 0.69, 0.79)) is None
    assert band_of(Interval(0.75, 0.71, 0.81)) is None
    assert band_of(Interval(0.9, 0.45, 0.95)) is None


@pytest.mark.parametrize("rate", [0.4, 0.6, 0.75, 0.9])
def test_the_planned_number_of_prompts_tells_the_band(rate: float) -> None:
    count = prompts_needed(rate, power=0.8)
    assert count is not None
    generator = random.Random(11)
    told = few = 0
    for _ in range(400):
        wins = sum(generator.random() < rate for _ in range(count))
        told += band_of(wilson(wins / count, count)) == band_at(rate)
        some = max(1, count // 3)
        few += band_of(wilson(sum(generator.random() < rate for _ in range(some)) / some, some)) == band_at(rate)
    assert told / 400 >= 0.74
    assert few < told


@pytest.mark.parametrize("edge", [0.5, 0.7, 0.8])
def test_no_number_of_prompts_tells_an_edge_apart(edge: float) -> None:
    assert prompts_needed(edge) is None
