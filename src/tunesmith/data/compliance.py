"""The page for the compliance officer, in both languages: which rows, under which licences, with what removed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunesmith.core.errors import Fact
from tunesmith.data.content import Listed
from tunesmith.data.licences import commercial_use
from tunesmith.data.pii.apply import PersonalData
from tunesmith.messages import both
from tunesmith.recipe.specs.goal import ComplianceSpec

REPORT = "compliance_report.md"


@dataclass(frozen=True)
class SourceRows:
    """Rows of one source: what they were given for, and under which licence."""

    name: str
    split: str
    licence: str
    rows: int


def compliance_report(
    sources: Sequence[SourceRows],
    searches: Sequence[PersonalData],
    listed: Sequence[Listed],
    wanted: ComplianceSpec | None = None,
) -> str:
    """The page as Markdown. It counts and names types; no value, word or text of a row stands in it.

    `searches` for personal data: the run's, and those of stages with rules of their own.
    """
    parts = [
        [f"# {_both('data.compliance_title')}", "", _both("data.compliance_intro")],
        _licences(sources, wanted),
        _personal(searches),
        _content(listed),
        [f"## {_both('data.compliance_limits_title')}", "", _both("data.compliance_limits")],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _licences(sources: Sequence[SourceRows], wanted: ComplianceSpec | None) -> list[str]:
    rows = [
        (
            source.name,
            source.split,
            source.rows,
            source.licence or _both("data.card_licence_unknown"),
            _both(f"data.use_{commercial_use(source.licence)}"),
        )
        for source in sources
    ]
    commercial = wanted is not None and wanted.commercial
    return [
        f"## {_both('data.compliance_licences')}",
        "",
        _both("data.compliance_commercial" if commercial else "data.compliance_not_commercial"),
        "",
        *_table(("source", "split", "rows", "licence", "commercial_use"), rows),
    ]


def _personal(searches: Sequence[PersonalData]) -> list[str]:
    heading = [f"## {_both('data.compliance_pii')}", ""]
    if not searches:
        return [*heading, _both("data.compliance_pii_not_asked")]
    return heading + [line for each in searches for line in (*_one_search(each), "")][:-1]


def _one_search(personal: PersonalData) -> list[str]:
    done = _both(f"data.compliance_pii_{personal.spec.action}")
    kept = _both("data.compliance_key" if personal.spec.key else "data.compliance_no_key")
    rows = [(each.source, _both(f"data.pii_type_{each.type}"), each.rows, each.values) for each in personal.findings()]
    told = [done, kept] if personal.spec.action == "mask" else [done]
    return [*told, "", *_table(("source", "pii_type", "rows", "values"), rows)]


def _content(listed: Sequence[Listed]) -> list[str]:
    heading = [f"## {_both('data.compliance_content')}", ""]
    if not listed:
        return [*heading, _both("data.compliance_content_not_asked")]
    rows = [(each.path, each.split, _both(f"data.list_{each.action}"), each.rows) for each in listed]
    return [*heading, *_table(("list", "split", "done", "rows"), rows)]


def _both(code: str, **facts: Fact) -> str:
    return " / ".join(dict.fromkeys(both(code, **facts).values()))


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [[_both(f"data.column_{name}") for name in columns], ["---"] * len(columns), *rows]
    return [
        "| " + " | ".join(str(value).replace("|", "\\|").replace("\n", " ") for value in line) + " |" for line in lines
    ]
