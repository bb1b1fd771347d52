"""The plan of a run: readiness, advice, warnings and forecast, as a value, as JSON and as lines to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from tunesmith.core.errors import Fact
from tunesmith.messages import LANGUAGES, Language, both
from tunesmith.plan.advise import Advice, Situation, advise, range_warnings
from tunesmith.plan.forecast import Forecast, ForecastRecord, Machine, ProbeResult, Workload, forecast
from tunesmith.plan.readiness import Readiness, ReadinessFacts, assess
from tunesmith.plan.sizes import ModelSize
from tunesmith.recipe.specs.adapt import AdaptSpec
from tunesmith.recipe.specs.train import TrainSpec


@dataclass(frozen=True)
class Plan:
    """What is known before the first step."""

    readiness: Readiness
    advice: tuple[Advice, ...]
    warnings: tuple[Advice, ...]
    forecast: Forecast


def make_plan(
    facts: ReadinessFacts,
    situation: Situation,
    size: ModelSize,
    adapt: AdaptSpec,
    train: TrainSpec,
    load: Workload,
    machine: Machine,
    probe: ProbeResult | None = None,
    records: Sequence[ForecastRecord] = (),
) -> Plan:
    """Forecast first; what it needs in memory then counts for the readiness. Pure: it reads and writes nothing."""
    expected = forecast(size, adapt, train, load, machine, probe, records)
    known = replace(facts, memory_needed=expected.peak_bytes.value, memory_free=float(machine.memory_bytes))
    return Plan(assess(known), advise(situation), range_warnings(adapt, train, size.hidden), expected)


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan as JSON values, every sentence in every language."""
    return {
        "readiness": {
            "state": plan.readiness.state,
            "findings": [
                {"level": each.level, "code": each.code, "facts": dict(each.facts), "words": dict(each.words())}
                for each in plan.readiness.findings
            ],
        },
        "advice": [_advice_json(each) for each in plan.advice],
        "warnings": [_advice_json(each) for each in plan.warnings],
        "forecast": asdict(plan.forecast),
        "lines": {language: plan_lines(plan, language) for language in LANGUAGES},
    }


def _advice_json(advice: Advice) -> dict[str, object]:
    return {"rule": advice.rule, "source": advice.source, "words": dict(advice.words())}


def plan_lines(plan: Plan, language: Language) -> list[str]:
    """The plan as lines for the terminal."""

    def line(code: str, **facts: Fact) -> str:
        return both(f"plan.{code}", **facts)[language]

    marks = {"good": "✓", "note": "·", "risky": "!", "blocked": "✕"}
    lines = [line(f"state_{plan.readiness.state}")]
    lines += [f"  {marks[each.level]} {each.words()[language]}" for each in plan.readiness.findings]
    expected = plan.forecast
    low, high = (round_time(seconds, language) for seconds in (expected.seconds.low, expected.seconds.high))
    lines.append(
        line(
            "forecast_time",
            time=round_time(expected.seconds.value, language),
            low=low,
            high=high,
            steps=expected.steps,
            tokens=f"{expected.tokens:,}",
        )
    )
    gigabytes = [f"{each / 1e9:.1f}" for each in (expected.peak_bytes.value, expected.peak_bytes.high)]
    lines.append(line("forecast_memory", memory=gigabytes[0], high=gigabytes[1]))
    if expected.money is not None:
        lines.append(line("forecast_money", hours=f"{expected.hours:.2f}", money=f"{expected.money:.2f}"))
    lines.append(line(f"forecast_by_{expected.basis}"))
    if expected.records:
        lines.append(line("forecast_corrected", records=expected.records))
    for each in plan.warnings:
        lines.append(f"  ! {each.words()[language]} ({each.source})")
    if plan.advice:
        lines.append(line("advice_title"))
        lines += [f"  → {each.words()[language]} ({each.source})" for each in plan.advice]
    return lines


def round_time(seconds: float, language: Language) -> str:
    """A time as a person would say it: 40 s, 4 min, 2.5 h."""
    if seconds < 90:
        return both("plan.seconds", number=f"{max(1, round(seconds))}")[language]
    if seconds < 5400:
        return both("plan.minutes", number=f"{seconds / 60:.0f}")[language]
    return both("plan.hours", number=f"{seconds / 3600:.1f}")[language]
