"""The data card of a corpus, from the sums that its build holds anyway: in both languages, as of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.core.files import write_atomic
from tunesmith.data.card_pages import as_markdown, as_page
from tunesmith.data.card_parts import Cell, Section, Table, Words
from tunesmith.data.corpus.report import CorpusReport
from tunesmith.data.corpus.stated import Stated
from tunesmith.messages import both
from tunesmith.recipe.specs.data import SourceSpec

CARDS = ("data_card.md", "data_card.html")


def write_card(folder: Path, report: CorpusReport, stated: Stated, sources: Sequence[SourceSpec]) -> None:
    """Write the card as Markdown and as a page. Errors: those of `write_atomic`."""
    found = [_splits(report, stated), _sources(stated, sources), _fates(report), *_changes(report)]
    intro = both("corpus.card_intro")
    for name, content in zip(CARDS, (as_markdown(found, intro), as_page(found, intro)), strict=True):
        write_atomic(folder / name, content)


def _columns(*names: str) -> tuple[Words, ...]:
    return tuple(both(f"data.column_{name}") for name in names)


def _splits(report: CorpusReport, stated: Stated) -> Section:
    total = sum(report.splits.values()) or 1
    rows = tuple((split, count, f"{count / total:.1%}") for split, count in report.splits.items())
    version = both("card.version", version=stated.version.id, content=stated.version.content[:12])
    return Section(both("data.card_splits"), (version, Table(_columns("split", "rows", "share"), rows)))


def _sources(stated: Stated, sources: Sequence[SourceSpec]) -> Section:
    unknown = both("data.card_licence_unknown")
    named: Mapping[str, SourceSpec] = {source.title: source for source in sources}
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (title, source.address, source.licence or unknown, f"`{stated.sources[title]}`")
        for title, source in named.items()
    )
    return Section(both("data.card_sources"), (Table(_columns("source", "file", "licence", "sha256"), rows),))


def _fates(report: CorpusReport) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for label, count in report.fates.items():
        fate, _, reason = label.partition(": ")
        rows.append((both(f"data.fate_{fate}"), both(f"data.reason_{reason}") if reason else "", count))
    rows.append((both("data.card_read"), "", sum(report.fates.values())))
    return Section(both("data.card_fates"), (Table(_columns("fate", "reason", "rows"), tuple(rows)),))


def _changes(report: CorpusReport) -> list[Section]:
    """Which rules changed how many rows; nothing where none did."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (both(f"data.change_{rule}"), counts["rows"], counts["places"]) for rule, counts in report.changed.items()
    )
    columns = _columns("change", "rows", "places")
    return [Section(both("data.card_changes"), (Table(columns, rows),))] if rows else []
