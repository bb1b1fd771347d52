"""Everything a release card states, as values. Shares are 0..1, times are seconds, sizes are bytes.

None means that a figure was not measured, and the card says so; it never stands for zero or for passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tunesmith.evaluate.cost import Cost
from tunesmith.evaluate.intervals import Interval
from tunesmith.evaluate.loss_plot import LossCurve
from tunesmith.evaluate.speed import Speed
from tunesmith.evaluate.stages import StageFacts
from tunesmith.evaluate.support_rate import SupportRate
from tunesmith.evaluate.wording import Words

Unmeasured = Literal["safety", "human_evaluation", "forgetting", "business_metric", "resume"]
GateState = Literal["passed", "failed", "missing"]
Consequence = Literal["revise", "block"]

MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Gate:
    """One condition of a release: its figure, its limit, whether it holds, and what follows when it does not."""

    name: Words
    figure: Words
    limit: Words
    state: GateState
    otherwise: Consequence


@dataclass(frozen=True)
class GoalFacts:
    """Why the model was tuned. `target_metric` is empty when no target was set."""

    problem: str = ""
    need: tuple[str, ...] = ()
    business_metric: str = ""
    target_metric: str = ""
    target_at_least: float = 0.0
    support_rate: float = 0.7


@dataclass(frozen=True)
class MetricLine:
    """One metric of base, base with examples in its prompt (None when left out) and tuned model.

    `gain` is tuned minus the better base, on the same rows; None where it has no interval (BLEU of a corpus).
    """

    metric: str
    zero_shot: float
    few_shot: float | None
    tuned: float
    tuned_interval: Interval | None = None
    gain: Interval | None = None

    def better_base(self) -> float:
        """The higher of the two baselines."""
        return self.zero_shot if self.few_shot is None else max(self.zero_shot, self.few_shot)

    def gain_value(self) -> float:
        """Tuned minus the better base."""
        return self.gain.value if self.gain is not None else self.tuned - self.better_base()


@dataclass(frozen=True)
class ForgettingLine:
    """One probe: shares of right choices before and after, and the changes of margin and likelihood in nats a token."""

    probe: str
    questions: int
    before: float
    after: float
    change: Interval
    likelihood: Interval


@dataclass(frozen=True)
class ExampleRow:
    """One test row with the wanted answer and both models' answers."""

    prompt: str
    wanted: str
    baseline: str
    tuned: str


@dataclass(frozen=True)
class CutFacts:
    """How `batch_size: auto` cut the steps: rows of a step, and the tokens at once, from the fewest to the most."""

    rows: int
    fewest: int
    most: int


@dataclass(frozen=True)
class MergeFacts:
    """Which base an adapter is merged with that was trained beside a quantised one, and the losses that decided.

    `chosen` is original or dequantized.
    """

    chosen: str
    quantize: str
    loss_original: float
    loss_dequantized: float


@dataclass(frozen=True)
class TrainingFacts:
    """What was trained and how. `useful_utilisation` (U), `kernel_efficiency` (E) and `waste` (W) with U = E / W.

    `stages` are there where several came one after the other; method and steps are then those of the last.
    """

    base: str
    base_licence: str
    method: str
    trained_parameters: int
    total_parameters: int
    epochs: float
    steps: int
    seconds: float
    tokens_per_second: float | None = None
    best_step: int | None = None
    base_quantization: str = ""
    device: str = ""
    dtype: str = ""
    useful_utilisation: float | None = None
    kernel_efficiency: float | None = None
    waste: float | None = None
    cut: CutFacts | None = None
    merge: MergeFacts | None = None
    losses: LossCurve | None = None
    stages: tuple[StageFacts, ...] = ()


@dataclass(frozen=True)
class SourceFacts:
    """Rows of one source under one licence; an empty one means that none was stated.

    `commercial` is false where the licence's name surely forbids commercial use.
    """

    name: str
    rows: int
    licence: str = ""
    commercial: bool = True


@dataclass(frozen=True)
class DataFacts:
    """Rows by fate (labels of the ledger) and by split. `leaks` counts test rows that also stand in training."""

    sources: tuple[SourceFacts, ...]
    fates: Mapping[str, int]
    splits: Mapping[str, int]
    ledger_balanced: bool
    leaks: int | None


@dataclass(frozen=True)
class ParityCheck:
    """One comparison of an artefact with the model that was evaluated."""

    name: Words
    figure: str
    limit: str
    passed: bool


@dataclass(frozen=True)
class ArtefactFacts:
    """One published form of the model and its parity checks."""

    format: str
    size_bytes: int
    checks: tuple[ParityCheck, ...]

    def passed(self) -> bool:
        """Every check holds; an artefact without checks has proven nothing."""
        return bool(self.checks) and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class SpeedLine:
    """Speed of one model or artefact on this machine."""

    name: Words
    speed: Speed


@dataclass(frozen=True)
class CardFacts:
    """A release card. The first line of `metrics` is the one that decides the gain, or those that `deciding` names.

    `baselines` are the words for what the tuned model is held against, one or two of them. `examples` are shown only
    when `examples_allowed`: rows are synthetic, or their owner agreed.
    `extra_gates` lets later rooms add conditions (safety, forgetting) without touching this one.
    """

    name: str
    created: str
    run: str
    goal: GoalFacts
    test_rows: int
    metrics: tuple[MetricLine, ...]
    support: SupportRate | None
    training: TrainingFacts
    data: DataFacts
    baselines: tuple[str, ...] = ("card_first_baseline", "card_base_with_examples")
    artefacts: tuple[ArtefactFacts, ...] = ()
    same_bytes: bool | None = None
    frozen_unchanged: bool | None = None
    resume_certified: bool | None = None
    speeds: tuple[SpeedLine, ...] = ()
    cost: Cost | None = None
    forgetting: tuple[ForgettingLine, ...] = ()
    examples: tuple[ExampleRow, ...] = ()
    examples_allowed: bool = False
    not_measured: tuple[Unmeasured, ...] = ("safety", "human_evaluation")
    extra_gates: tuple[Gate, ...] = ()
    deciding: tuple[str, ...] = ()
    changed_conditions: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
