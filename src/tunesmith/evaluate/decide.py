"""The release decision: every gate must hold. A figure that is missing never counts as passed.

block    something is proven wrong: the artefact is not the model that was evaluated, rows leak or are lost, or the
         new model is worse than the old one.
revise   nothing is wrong, but the goal is not reached, or not surely enough.
release  every gate holds. What was not measured stays with the person who signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tunesmith.evaluate.card_facts import ArtefactFacts, CardFacts, Consequence, Gate, GateState
from tunesmith.evaluate.intervals import Interval
from tunesmith.evaluate.support_rate import EDGES
from tunesmith.evaluate.wording import Words, metric_words, percent, plain, points, with_interval, words_of

Decision = Literal["release", "revise", "block"]


@dataclass(frozen=True)
class Verdict:
    """The decision and every gate in the order of the card."""

    decision: Decision
    gates: tuple[Gate, ...]

    def open_gates(self) -> tuple[Gate, ...]:
        """The gates that stand against a release, those that block first."""
        return tuple(sorted((gate for gate in self.gates if gate.state != "passed"), key=lambda g: not _blocks(g)))


def decide(facts: CardFacts) -> Verdict:
    """Hold the facts against every gate. Pure: equal facts get an equal verdict."""
    gates = (*_quality_gates(facts), *_proof_gates(facts), *facts.extra_gates)
    if any(_blocks(gate) for gate in gates):
        return Verdict("block", gates)
    return Verdict("revise" if any(gate.state != "passed" for gate in gates) else "release", gates)


def _blocks(gate: Gate) -> bool:
    # a gate whose figure is missing asks for the measurement; only a figure can prove something wrong
    return gate.state == "failed" and gate.otherwise == "block"


def _gate(name: Words, figure: Words | None, limit: Words, passed: bool, otherwise: Consequence) -> Gate:
    state: GateState = "missing" if figure is None else ("passed" if passed else "failed")
    return Gate(name, words_of("not_measured") if figure is None else figure, limit, state, otherwise)


def _quality_gates(facts: CardFacts) -> list[Gate]:
    gates = []
    goal = facts.goal
    if goal.target_metric:
        values = sorted(line.tuned for line in facts.metrics if _is_of(line.metric, goal.target_metric))
        figure = plain(percent(values[0])) if values else None
        name = words_of("gate_target", metric=metric_words(goal.target_metric))
        limit = words_of("at_least", limit=percent(goal.target_at_least))
        gates.append(_gate(name, figure, limit, bool(values) and values[0] >= goal.target_at_least, "revise"))
    deciding = [line for line in facts.metrics if line.metric in facts.deciding] or facts.metrics[:1]
    gates += [_gain_gate(metric_words(line.metric), line.gain) for line in deciding] or [_gain_gate("-", None)]
    rate = None if facts.support is None else facts.support.rate
    preferred_less = rate is not None and rate.high < EDGES[0]
    gates.append(
        _gate(
            words_of("gate_support"),
            None if rate is None else with_interval(percent(rate.value), rate),
            words_of("surely_at_least", limit=percent(goal.support_rate)),
            rate is not None and rate.low >= goal.support_rate,
            "block" if preferred_less else "revise",
        )
    )
    return gates


def _is_of(figure: str, metric: str) -> bool:
    """Whether a figure is the metric, or that of one of several tasks: the least of these decides."""
    return figure.rpartition("/")[2] == metric


def _gain_gate(metric: Words | str, gain: Interval | None) -> Gate:
    surely_worse = gain is not None and gain.high < 0
    return _gate(
        words_of("gate_gain", metric=metric),
        None if gain is None else with_interval(points(gain.value), gain, signed=True),
        words_of("surely_above_zero"),
        gain is not None and gain.low > 0,
        "block" if surely_worse else "revise",
    )


def _proof_gates(facts: CardFacts) -> list[Gate]:
    data = facts.data
    zero = words_of("at_most", limit="0")
    gates = [
        _yes_gate("gate_ledger", data.ledger_balanced),
        _gate(
            words_of("gate_leaks"),
            None if data.leaks is None else plain(str(data.leaks)),
            zero,
            data.leaks == 0,
            "block",
        ),
        _yes_gate("gate_same_bytes", facts.same_bytes),
    ]
    if facts.frozen_unchanged is not None:
        gates.append(_yes_gate("gate_frozen", facts.frozen_unchanged))
    if facts.resume_certified is not None:
        gates.append(_yes_gate("gate_resume", facts.resume_certified))
    if facts.artefacts:
        gates.extend(_parity_gate(artefact) for artefact in facts.artefacts)
    else:
        gates.append(_gate(words_of("gate_parity_none"), None, words_of("all_checks"), False, "block"))
    licence = facts.training.base_licence
    stated = plain(licence) if licence else None
    gates.append(_gate(words_of("gate_licence"), stated, words_of("stated"), True, "revise"))
    return gates


def _yes_gate(code: str, holds: bool | None) -> Gate:
    figure = None if holds is None else words_of("yes" if holds else "no")
    return _gate(words_of(code), figure, words_of("yes"), bool(holds), "block")


def _parity_gate(artefact: ArtefactFacts) -> Gate:
    held = sum(check.passed for check in artefact.checks)
    figure = words_of("checks_held", held=held, total=len(artefact.checks)) if artefact.checks else None
    name = words_of("gate_parity", format=artefact.format)
    return _gate(name, figure, words_of("all_checks"), artefact.passed(), "block")
