"""Which method and which base: rules, each with its condition, its advice and the source it comes from.

A rule speaks when its condition holds; rules may disagree, and the order of the list is their weight. The ladder of
means is full tuning, then LoRA, then QLoRA, by what fits into memory. Advice names what suits the situation;
`tunesmith methods` shows what this release trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.core.errors import Fact
from tunesmith.messages import Language, both
from tunesmith.recipe.specs.adapt import AdaptSpec, BottleneckSpec, LoraExpertsSpec, LoraSpec, SubsetSpec
from tunesmith.recipe.specs.beginnings import BeginningSpec
from tunesmith.recipe.specs.train import TrainSpec

Purpose = Literal["", "prototype", "production"]
Task = Literal["generate", "classify"]

LARGE_MODEL = 10_000_000_000
SMALL_MODEL = 1_000_000_000
AMPLE_ROWS = 100_000
SMALL_DATA_ROWS = 1_000
SMALL_SHARE = 0.01
# bytes a parameter: float32 masters and Adam's state over 16-bit weights; 16-bit frozen weights; 4-bit with constants
FULL_BYTES, LORA_BYTES, QLORA_BYTES = 18.0, 2.2, 0.7
_ROOM = 0.8
"""Share of memory for weights and state; the rest is for activations."""
_FULL_TEXT, _ADAPTER_LOW, _ADAPTER_HIGH = (1e-5, 5e-5), 1e-4, 5e-4


@dataclass(frozen=True)
class Situation:
    """What the advice depends on. Memory is that of the device that trains, bytes; 0 and empty mean unknown."""

    rows: int = 0
    parameters: int = 0
    trained_parameters: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    need: tuple[str, ...] = ()
    purpose: Purpose = ""
    task: Task = "generate"
    private: bool = False
    near_pretraining: bool = False
    domains: int = 1
    downstream_tasks: int = 1
    low_budget_feedback: bool = False


@dataclass(frozen=True)
class Advice:
    """One piece of advice: the rule's name, the facts of its sentence, and its source."""

    rule: str
    source: str
    facts: Mapping[str, Fact]

    def words(self) -> Mapping[Language, str]:
        """The advice in every language."""
        return both(f"plan.advice_{self.rule}", **self.facts)


@dataclass(frozen=True)
class Rule:
    """A rule: `speaks` says whether it applies; its sentence is `plan.advice_<name>`."""

    name: str
    source: str
    speaks: Callable[[Situation], bool]


def _fits(situation: Situation, bytes_per_parameter: float) -> bool:
    return situation.parameters * bytes_per_parameter <= _ROOM * situation.memory_bytes


def _known(situation: Situation) -> bool:
    return situation.parameters > 0 and situation.memory_bytes > 0


def _trains_much(situation: Situation) -> bool:
    share = situation.trained_parameters / situation.parameters if situation.parameters else 1.0
    return 0 < situation.rows < SMALL_DATA_ROWS and share > SMALL_SHARE


RULES: tuple[Rule, ...] = (
    Rule("private", "McMahan et al. 2017, arXiv 1602.05629", lambda s: s.private),
    Rule("classify", "Devlin et al. 2019, arXiv 1810.04805", lambda s: s.task == "classify"),
    Rule("large_model", "Hu et al. 2021, arXiv 2106.09685", lambda s: s.parameters >= LARGE_MODEL),
    Rule(
        "full",
        "Biderman et al. 2024, arXiv 2405.09673",
        lambda s: _known(s) and s.rows > AMPLE_ROWS and _fits(s, FULL_BYTES) and s.parameters < LARGE_MODEL,
    ),
    Rule(
        "lora",
        "Hu et al. 2021, arXiv 2106.09685",
        lambda s: _known(s) and _fits(s, LORA_BYTES) and (s.rows <= AMPLE_ROWS or not _fits(s, FULL_BYTES)),
    ),
    Rule(
        "qlora",
        "Dettmers et al. 2023, arXiv 2305.14314",
        lambda s: _known(s) and not _fits(s, LORA_BYTES) and _fits(s, QLORA_BYTES),
    ),
    Rule("smaller_base", "Dettmers et al. 2023, arXiv 2305.14314", lambda s: _known(s) and not _fits(s, QLORA_BYTES)),
    Rule(
        "consumer_gpu",
        "Dettmers et al. 2023, arXiv 2305.14314; Rafailov et al. 2023, arXiv 2305.18290",
        lambda s: s.gpus == 1 and 0 < s.memory_bytes <= 24_000_000_000 and s.parameters > SMALL_MODEL,
    ),
    Rule("prototype", "Lester et al. 2021, arXiv 2104.08691", lambda s: s.purpose == "prototype"),
    Rule("production", "Rafailov et al. 2023, arXiv 2305.18290", lambda s: s.purpose == "production"),
    Rule("small_data", "Liu et al. 2022, arXiv 2205.05638", _trains_much),
    Rule("near_pretraining", "Ben Zaken et al. 2022, arXiv 2106.10199", lambda s: s.near_pretraining),
    Rule("style", "Lester et al. 2021, arXiv 2104.08691", lambda s: s.need == ("style",)),
    Rule("many_domains", "Houlsby et al. 2019, arXiv 1902.00751", lambda s: s.domains > 2),
    Rule("many_tasks", "Li and Liang 2021, arXiv 2101.00190", lambda s: s.downstream_tasks > 2),
    Rule(
        "small_prefix",
        "Liu et al. 2022, arXiv 2110.07602",
        lambda s: s.downstream_tasks > 2 and 0 < s.parameters < SMALL_MODEL,
    ),
    Rule("ai_feedback", "Lee et al. 2023, arXiv 2309.00267", lambda s: s.low_budget_feedback),
)


def advise(situation: Situation) -> tuple[Advice, ...]:
    """Every rule that speaks, in the order of their weight."""
    facts: dict[str, Fact] = {
        "rows": situation.rows,
        "parameters": readable(situation.parameters),
        "memory": f"{situation.memory_bytes / 1e9:.0f}",
    }
    return tuple(Advice(rule.name, rule.source, facts) for rule in RULES if rule.speaks(situation))


def readable(parameters: int) -> str:
    """A number of parameters as 131K, 135M or 7.6B."""
    if parameters < 1e6:
        return f"{parameters / 1e3:.0f}K"
    return f"{parameters / 1e9:.1f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _known_rates(adapt: AdaptSpec, hidden: int | None) -> tuple[float, float, str]:
    """The known range of step sizes, and who says so."""
    if isinstance(adapt, LoraSpec | LoraExpertsSpec):
        bears = max(1.0, (2000 / hidden) ** 0.78) if hidden else 1.0
        source = "Hu et al. 2021, arXiv 2106.09685; Schulman et al. 2025, LoRA Without Regret"
        return _ADAPTER_LOW, _ADAPTER_HIGH * bears, source
    if isinstance(adapt, BottleneckSpec):
        return 3e-5, 3e-3, "Houlsby et al. 2019, arXiv 1902.00751, section 3.1"
    if isinstance(adapt, SubsetSpec) and adapt.only_vectors:
        return 1e-4, 1e-3, "Ben-Zaken et al. 2021, arXiv 2106.10199"
    if isinstance(adapt, BeginningSpec) and adapt.has_network:
        return 5e-5, 1e-2, "Li and Liang 2021, arXiv 2101.00190; Liu et al. 2021, arXiv 2103.10385"
    if isinstance(adapt, BeginningSpec):
        return 1e-3, 3e-1, "Lester et al. 2021, arXiv 2104.08691; Liu et al. 2021, arXiv 2110.07602"
    return *_FULL_TEXT, "Devlin et al. 2019, arXiv 1810.04805"


def range_warnings(adapt: AdaptSpec, train: TrainSpec, hidden: int | None = None) -> tuple[Advice, ...]:
    """Settings outside the known ranges of text models.

    Step size: full 1e-5..5e-5 (Devlin et al. 2019, appendix A.3), adapters 1e-4..5e-4 (Hu et al. 2021, appendix D);
    narrower models bear more: the upper end grows as (2000 / hidden)^0.78 (Schulman et al. 2025, LoRA Without
    Regret); biases alone 1e-4..1e-3 (Ben-Zaken et al. 2021); learned beginnings 1e-3..0.3 (Lester et al. 2021; Liu et
    al. 2021), 5e-5..1e-2 where a network gives them (Li and Liang 2021). Weight decay 0.01..0.1 (Loshchilov and Hutter
    2019, arXiv 1711.05101); rank 8..16 to start with.
    """
    found = []
    low, high, source = _known_rates(adapt, hidden)
    rate = train.learning_rate
    if rate is not None and not low * 0.999 <= rate <= high * 1.001:
        name = "rate_high" if rate > high else "rate_low"
        facts: dict[str, Fact] = {"rate": f"{rate:g}", "low": f"{low:g}", "high": f"{high:.2g}", "method": adapt.kind}
        found.append(Advice(name, source, facts))
    if not 0.01 <= train.weight_decay <= 0.1:
        decay = {"decay": f"{train.weight_decay:g}"}
        found.append(Advice("weight_decay", "Loshchilov and Hutter 2019, arXiv 1711.05101", decay))
    if isinstance(adapt, LoraSpec) and not 8 <= adapt.rank <= 64:
        found.append(Advice("rank", "Hu et al. 2021, arXiv 2106.09685, section 7.2", {"rank": adapt.rank}))
    return tuple(found)
