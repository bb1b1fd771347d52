"""The plan of a run: readiness, advice, warnings and forecast, as a value, as JSON and as lines to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from tunesmith.core.errors import Fact
from tunesmith.messages import LANGUAGES, Language, both
from tunesmith.messages import language as language_in_force
from tunesmith.plan.advise import Advice, Situation, advise, range_warnings
from tunesmith.plan.cautions import BaseFacts, Circumstances, RowFacts, cautions
from tunesmith.plan.forecast import Forecast, ForecastRecord, Machine, ProbeResult, Workload, forecast
from tunesmith.plan.readiness import Finding, Readiness, ReadinessFacts, assess
from tunesmith.plan.sizes import ModelSize
from tunesmith.recipe.specs.adapt import AdaptSpec
from tunesmith.recipe.specs.train import TrainSpec

_MARKDOWN_SIGNS = re.compile(r"([\\`*_\[\]#|])")


@dataclass(frozen=True)
class Plan:
    """What is known before the first step. `stages` are the forecasts that the one of several stages is made of."""

    readiness: Readiness
    advice: tuple[Advice, ...]
    warnings: tuple[Advice, ...]
    forecast: Forecast
    stages: tuple[tuple[str, Forecast], ...] = ()


NOTHING_KNOWN = BaseFacts()


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
    rows: RowFacts | None = None,
    base: BaseFacts = NOTHING_KNOWN,
) -> Plan:
    """Forecast first; what it needs in memory then counts for the readiness. Pure: it reads and writes nothing."""
    expected = forecast(size, adapt, train, load, machine, probe, records)
    known = replace(facts, memory_needed=expected.peak_bytes.value, memory_free=float(machine.memory_bytes))
    warnings = range_warnings(adapt, train, size.hidden)
    if rows is not None:
        warnings += cautions(Circumstances(train, rows, base, expected.hours))
    return Plan(assess(known), advise(situation), warnings, expected)


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan as JSON values, every sentence in every language."""
    return {
        "readiness": {
            "state": plan.readiness.state,
            "findings": [_finding_json(each) for each in plan.readiness.findings],
        },
        "advice": [_advice_json(each) for each in plan.advice],
        "warnings": [_advice_json(each) for each in plan.warnings],
        "forecast": asdict(plan.forecast),
        "stages": {name: asdict(each) for name, each in plan.stages},
        "lines": {str(language): plan_lines(plan, language) for language in LANGUAGES},
    }


def _finding_json(finding: Finding) -> dict[str, object]:
    words = dict(finding.words())
    return {"level": finding.level, "code": finding.code, "facts": dict(finding.facts), "words": words}


def _advice_json(advice: Advice) -> dict[str, object]:
    return {"rule": advice.rule, "source": advice.source, "words": dict(advice.words())}


def plan_lines(plan: Plan, language: Language) -> list[str]:
    """The plan as lines for the terminal."""

    def line(code: str, **facts: Fact) -> str:
        return both(f"plan.{code}", **facts)[language]

    marks = {"good": "✓", "note": "·", "risky": "!", "blocked": "✕"}
    lines = [line(f"state_{plan.readiness.state}")]
    lines += [f"  {marks[each.level]} {each.words()[language]}" for each in plan.readiness.findings]
    lines += forecast_lines(plan.forecast, language) + stage_lines(plan, language)
    lines += [f"  ! {_sourced(each, language)}" for each in plan.warnings]
    if plan.advice:
        lines.append(line("advice_title"))
        lines += [f"  → {_sourced(each, language)}" for each in plan.advice]
    return lines


def forecast_lines(expected: Forecast, language: Language) -> list[str]:
    """The forecast as lines: time, memory, money where a price is known, and what it rests on."""

    def line(code: str, **facts: Fact) -> str:
        return both(f"plan.{code}", **facts)[language]

    lines = []
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
    if expected.tokens_at_once is not None:
        at_once = f"{expected.tokens_at_once:,}"
        lines.append(line("forecast_batch", rows=expected.rows_per_step, tokens=at_once))
    gigabytes = [f"{each / 1e9:.1f}" for each in (expected.peak_bytes.value, expected.peak_bytes.high)]
    lines.append(line("forecast_memory", memory=gigabytes[0], high=gigabytes[1]))
    if expected.money is not None:
        lines.append(line("forecast_money", hours=f"{expected.hours:.2f}", money=f"{expected.money:.2f}"))
    lines.append(line(f"forecast_by_{expected.basis}"))
    if expected.records:
        lines.append(line("forecast_corrected", records=expected.records))
    lines.append(line("forecast_without"))
    return lines


def stage_lines(plan: Plan, language: Language) -> list[str]:
    """The share of each stage in a forecast of several."""
    return [
        both(
            "plan.forecast_stage",
            stage=name,
            time=round_time(each.seconds.value, language),
            steps=each.steps,
            tokens=f"{each.tokens:,}",
            memory=f"{each.peak_bytes.value / 1e9:.1f}",
        )[language]
        for name, each in plan.stages
    ]


def _sourced(advice: Advice, language: Language) -> str:
    """The advice with its source, where it has one."""
    text = advice.words()[language]
    return f"{text} ({advice.source})" if advice.source else text


def as_markdown(plan: Plan) -> str:
    """The plan as a page: the whole of it in the language in force, then in the other."""
    order = sorted(LANGUAGES, key=lambda each: each != language_in_force())
    return "\n---\n\n".join(_page(plan, each) for each in order)


def _page(plan: Plan, language: Language) -> str:
    def line(code: str) -> str:
        return both(f"plan.{code}")[language]

    levels = {level: line(f"level_{level}") for level in ("blocked", "risky", "note", "good")}
    parts = [f"# {line('page_title')}", f"**{line(f'state_{plan.readiness.state}')}**"]
    findings = (f"- {levels[each.level]}: {_plain(each.words()[language])}" for each in plan.readiness.findings)
    parts.append("\n".join(findings))
    parts.append(f"## {line('page_forecast')}")
    lines = forecast_lines(plan.forecast, language) + stage_lines(plan, language)
    parts.append("\n".join(f"- {each}" for each in lines))
    for title, listed in (("page_warnings", plan.warnings), ("page_advice", plan.advice)):
        if listed:
            parts.append(f"## {line(title)}")
            parts.append("\n".join(f"- {_plain(_sourced(each, language))}" for each in listed))
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text that a licence or a recipe may have filled: one line, no markup, no HTML."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_SIGNS.sub(r"\\\1", line)


def round_time(seconds: float, language: Language) -> str:
    """A time as a person would say it: 0.4 s, 40 s, 4 min, 2.5 h."""
    if seconds < 10:
        return both("plan.seconds", number=f"{seconds:.1f}")[language]
    if seconds < 90:
        return both("plan.seconds", number=f"{seconds:.0f}")[language]
    if seconds < 5400:
        return both("plan.minutes", number=f"{seconds / 60:.0f}")[language]
    return both("plan.hours", number=f"{seconds / 3600:.1f}")[language]
