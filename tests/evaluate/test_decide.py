from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from card_samples import sample_artefact, sample_facts

from tunesmith.evaluate.card_facts import CardFacts, Gate
from tunesmith.evaluate.decide import decide
from tunesmith.evaluate.intervals import Interval
from tunesmith.evaluate.support_rate import support_rate, votes_by_metric
from tunesmith.evaluate.wording import duration, file_size, percent, plain

Change = Callable[[CardFacts], CardFacts]


def line(**values: object) -> Change:
    return lambda f: replace(f, metrics=(replace(f.metrics[0], **values), *f.metrics[1:]))


def data(**values: object) -> Change:
    return lambda f: replace(f, data=replace(f.data, **values))


def votes(wins: int, losses: int) -> Change:
    rate = support_rate(votes_by_metric([1.0] * wins + [0.0] * losses, [0.0] * wins + [1.0] * losses))
    return lambda f: replace(f, support=rate)


def extra(state: str, otherwise: str) -> Change:
    gate = Gate(plain("safety"), plain("x"), plain("y"), state, otherwise)  # type: ignore[arg-type]
    return lambda f: replace(f, extra_gates=(gate,))


def test_when_every_gate_holds_it_is_released() -> None:
    verdict = decide(sample_facts())
    assert verdict.decision == "release"
    assert verdict.open_gates() == ()
    assert {gate.state for gate in verdict.gates} == {"passed"}


CASES: list[tuple[Change, str, str]] = [
    # not good enough, or not surely enough
    (line(tuned=0.84), "revise", "Target"),
    (lambda f: replace(f, goal=replace(f.goal, target_metric="accuracy")), "revise", "Target"),
    (line(gain=Interval(0.1, -0.01, 0.2)), "revise", "Gain"),
    (line(gain=None), "revise", "Gain"),
    (votes(30, 10), "revise", "Support rate"),
    (lambda f: replace(f, support=None), "revise", "Support rate"),
    (lambda f: replace(f, metrics=()), "revise", "Target"),
    # proven wrong
    (line(gain=Interval(-0.1, -0.2, -0.05)), "block", "Gain"),
    (votes(20, 80), "block", "Support rate"),
    (data(ledger_balanced=False), "block", "Every row"),
    (data(leaks=1), "block", "Test rows"),
    (lambda f: replace(f, same_bytes=False), "block", "Training, evaluation"),
    (lambda f: replace(f, frozen_unchanged=False), "block", "Weights"),
    (lambda f: replace(f, resume_certified=False), "block", "interrupted"),
    (lambda f: replace(f, artefacts=(*f.artefacts, sample_artefact("onnx", 1, "3 %", False))), "block", "onnx"),
    (lambda f: replace(f, artefacts=(replace(f.artefacts[0], checks=()),)), "revise", "safetensors"),
    # missing figures are never passed
    (data(leaks=None), "revise", "Test rows"),
    (lambda f: replace(f, same_bytes=None), "revise", "Training, evaluation"),
    (lambda f: replace(f, artefacts=()), "revise", "Artefacts"),
    (lambda f: replace(f, training=replace(f.training, base_licence="")), "revise", "Licence"),
    (extra("failed", "block"), "block", "safety"),
    (extra("failed", "revise"), "revise", "safety"),
    (extra("missing", "block"), "revise", "safety"),
]


@pytest.mark.parametrize(("change", "decision", "gate"), CASES)
def test_one_gate_alone_stops_a_release(change: Change, decision: str, gate: str) -> None:
    verdict = decide(change(sample_facts()))
    assert verdict.decision == decision
    assert any(gate in each.name["en"] for each in verdict.open_gates())


def test_what_was_not_asked_for_is_no_gate() -> None:
    facts = sample_facts()
    facts = replace(facts, goal=replace(facts.goal, target_metric=""), frozen_unchanged=None, resume_certified=None)
    assert decide(facts).decision == "release"


def test_the_gravest_reason_stands_first() -> None:
    facts = line(tuned=0.1)(data(leaks=3)(sample_facts()))
    assert [gate.name["en"].split()[0] for gate in decide(facts).open_gates()] == ["Test", "Target:"]


def test_a_support_rate_just_at_the_limit_is_not_enough() -> None:
    """168 of 240 is 70 %, but surely at least 63.9 % only."""
    assert decide(votes(168, 72)(sample_facts())).decision == "revise"
    assert decide(votes(190, 50)(sample_facts())).decision == "release"


def test_figures_in_words() -> None:
    assert [percent(x) for x in (0, 0.5, 0.9999, 1)] == ["0.0%", "50.0%", "99.9%", "100%"]
    assert [duration(x)["en"] for x in (0.5, 42, 252, 7300)] == ["0.50 s", "42 s", "4 min 12 s", "2 h 1 min"]
    assert duration(7300)["zh"] == "2 小时 1 分"
    assert [file_size(x) for x in (12, 1500, 145e6)] == ["12 B", "1.5 kB", "145 MB"]  # type: ignore[arg-type]
