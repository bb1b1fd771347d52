"""Support rate: how often the new model's answer is preferred to the baseline's, without knowing which is which.

For every prompt the examiner is asked twice, with the two answers in both orders. All questions are shuffled, so
that an examiner can neither pair the two orders nor tell the new answer by its place. A prompt's score is the mean
of its two verdicts for the new answer, with win = 1, tie = 1/2 and loss = 0; the support rate is the mean over
prompts. Its Wilson interval counts prompts (never the two questions of one prompt as two) and takes halves as they
are, which makes it rather too wide than too narrow.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, Protocol

from tunesmith.core.errors import TunesmithError
from tunesmith.core.seed import derive_seed
from tunesmith.evaluate.intervals import CONFIDENCE, Interval, two_sided_z, wilson

Choice = Literal["first", "second", "tie"]
Band = Literal["worse", "unsatisfactory", "success", "marked_gain"]

EDGES: tuple[float, ...] = (0.5, 0.7, 0.8)
"""Below 0.5 worse, from 0.5 unsatisfactory, from 0.7 success, above 0.8 a marked gain."""
METRIC_REFEREE = "metric referee"

_POINTS: dict[str, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


class Examiner(Protocol):
    """Whoever compares two answers: a person, a model, a rule. `name` goes onto the release card."""

    @property
    def name(self) -> str:
        """Who judged, as the card shows it."""

    def judge(self, prompt: str, first: str, second: str) -> Choice:
        """The better answer to the prompt, or a tie."""


@dataclass(frozen=True)
class Pair:
    """One prompt with the answers of both models."""

    prompt: str
    new: str
    baseline: str


@dataclass(frozen=True)
class Vote:
    """Verdicts on one prompt: with the new answer shown first, and with it shown second."""

    new_first: Choice
    new_second: Choice

    def points(self) -> float:
        """Score of the new answer, 0..1."""
        return (_POINTS[self.new_first] + 1 - _POINTS[self.new_second]) / 2

    def flipped(self) -> bool:
        """Whether the verdict depends on the order."""
        return _POINTS[self.new_first] != 1 - _POINTS[self.new_second]


@dataclass(frozen=True)
class SupportRate:
    """The blind comparison in figures.

    `rate` is a share with its Wilson interval over `prompts`. Wins, ties and losses count prompts whose score is
    above, at and below 1/2. `first_share` is how often the answer shown first was preferred (ties half): 0.5 means
    no effect of position. `flipped` is the share of prompts whose verdict changed with the order. `band` is None
    when the interval crosses an edge: the data cannot tell the bands apart.
    """

    referee: str
    prompts: int
    rate: Interval
    wins: int
    ties: int
    losses: int
    first_share: float
    flipped: float
    band: Band | None


def ask(examiner: Examiner, pairs: Sequence[Pair], seed: int) -> list[Vote]:
    """Ask about every pair in both orders, all questions shuffled by the seed. One vote a pair, in their order.

    Errors: evaluate.unknown_choice when the examiner answers anything else than first, second or tie.
    """
    questions = [(index, new_first) for index in range(len(pairs)) for new_first in (True, False)]
    random.Random(derive_seed(seed, "support rate order")).shuffle(questions)
    verdicts: dict[tuple[int, bool], Choice] = {}
    for index, new_first in questions:
        pair = pairs[index]
        shown = (pair.new, pair.baseline) if new_first else (pair.baseline, pair.new)
        choice = examiner.judge(pair.prompt, *shown)
        if choice not in _POINTS:
            raise TunesmithError("evaluate.unknown_choice", referee=examiner.name, choice=str(choice)[:80])
        verdicts[index, new_first] = choice
    return [Vote(verdicts[index, True], verdicts[index, False]) for index in range(len(pairs))]


def votes_by_metric(new: Sequence[float], baseline: Sequence[float]) -> list[Vote]:
    """Votes of the metric referee: on each prompt the higher score of a metric wins, equal scores are a tie.

    It sees scores alone, so position cannot matter. It measures; it never counts as a human vote.
    Errors: evaluate.rows_differ.
    """
    if len(new) != len(baseline):
        raise TunesmithError("evaluate.rows_differ", answers=len(new), references=len(baseline))
    votes = []
    for new_score, baseline_score in zip(new, baseline, strict=True):
        if new_score == baseline_score:
            votes.append(Vote("tie", "tie"))
        else:
            votes.append(Vote("first", "second") if new_score > baseline_score else Vote("second", "first"))
    return votes


def support_rate(votes: Sequence[Vote], referee: str = METRIC_REFEREE) -> SupportRate:
    """Count the votes. Errors: evaluate.no_rows."""
    if not votes:
        raise TunesmithError("evaluate.no_rows")
    points = [vote.points() for vote in votes]
    count = len(votes)
    rate = wilson(sum(points) / count, count)
    first = sum(_POINTS[vote.new_first] + _POINTS[vote.new_second] for vote in votes)
    return SupportRate(
        referee=referee,
        prompts=count,
        rate=rate,
        wins=sum(each > 0.5 for each in points),
        ties=sum(each == 0.5 for each in points),
        losses=sum(each < 0.5 for each in points),
        first_share=first / (2 * count),
        flipped=sum(vote.flipped() for vote in votes) / count,
        band=band_of(rate),
    )


def band_at(rate: float) -> Band:
    """The band of one share, by the edges 50, 70 and 80 %."""
    if rate < EDGES[0]:
        return "worse"
    if rate < EDGES[1]:
        return "unsatisfactory"
    return "success" if rate <= EDGES[2] else "marked_gain"


def band_of(rate: Interval) -> Band | None:
    """The band of a share with its interval, or None when the interval crosses an edge."""
    band = band_at(rate.low)
    return band if band == band_at(rate.high) else None


def prompts_needed(expected_rate: float, power: float = 0.8) -> int | None:
    """Prompts after which the band of a model with this true rate is told with the given chance.

    The usual size of a one-sample test of a share, n = ((z_a sqrt(e (1-e)) + z_b sqrt(p (1-p))) / |p - e|)^2, for
    the edges e around p (Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions, 2003, section 2.5):
    Wilson's interval is that test turned around. None when the rate stands on an edge and no number is enough.
    """
    below = [edge for edge in EDGES if edge <= expected_rate]
    above = [edge for edge in EDGES if edge > expected_rate]
    nearest = [*below[-1:], *above[:1]]
    if expected_rate in EDGES:
        return None
    # with an edge on both sides the chance of missing is shared between them
    z_power = NormalDist().inv_cdf(1 - (1 - power) / len(nearest))
    z_edge = two_sided_z(CONFIDENCE)
    sizes = [
        (
            (z_edge * math.sqrt(edge * (1 - edge)) + z_power * math.sqrt(expected_rate * (1 - expected_rate)))
            / (expected_rate - edge)
        )
        ** 2
        for edge in nearest
    ]
    return max(1, math.ceil(max(sizes)))
