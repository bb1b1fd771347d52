"""Licences that rows state themselves go before their source's: judged, dropped with a reason, and counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown
from tunesmith.data.compliance import REPORT
from tunesmith.data.licences import check_licences
from tunesmith.data.prepare import prepare, write
from tunesmith.data.prepared import Prepared
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.goal import ComplianceSpec

STATED = ["CC-BY-4.0"] * 12 + ["CC-BY-NC-4.0"] * 5 + ["odd words"] * 3 + [None] * 4 + [" "] * 2
COMMERCIAL, REFUSING = ComplianceSpec(), ComplianceSpec(unknown_licences="refuse")


def prepared(folder: Path, wanted: ComplianceSpec | None, own: str = "MIT", **source: object) -> Prepared:
    rows = [
        {"prompt": f"question {n}?", "completion": f"answer {n}", **({"lic": each} if each is not None else {})}
        for n, each in enumerate(STATED)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    stated = {"path": "rows.jsonl", "licence": own, "licence_column": "lic", **source}
    spec = DataSpec.model_validate({"sources": [stated]})
    check_licences(spec.sources, wanted)
    return prepare(spec, folder, Ledger(), compliance=wanted)


@pytest.mark.parametrize(
    ("wanted", "own", "totals"),
    [
        (None, "MIT", {"kept": 26}),
        (ComplianceSpec(commercial=False), "MIT", {"kept": 26}),
        (COMMERCIAL, "MIT", {"dropped: licence_forbids": 5, "kept": 21}),
        (REFUSING, "MIT", {"dropped: licence_forbids": 5, "dropped: licence_unknown": 3, "kept": 18}),
        (COMMERCIAL, "CC-BY-NC-4.0", {"dropped: licence_forbids": 11, "kept": 15}),
        (REFUSING, "", {"dropped: licence_forbids": 5, "dropped: licence_unknown": 9, "kept": 12}),
    ],
)
def test_a_row_is_judged_by_its_own_licence(
    tmp_path: Path, wanted: ComplianceSpec | None, own: str, totals: dict[str, int]
) -> None:
    assert prepared(tmp_path, wanted, own).ledger.totals() == totals


def test_card_and_report_count_rows_by_licence(tmp_path: Path) -> None:
    found = prepared(tmp_path, COMMERCIAL)
    card = as_markdown(card_sections(found))
    for licence, rows in (("CC-BY-4.0", 12), ("MIT", 6), ("odd words", 3)):
        assert any(line.split("|")[3:5] == [f" {licence} ", f" {rows} "] for line in card.splitlines() if "|" in line)
    run = tmp_path / "run"
    run.mkdir()
    write(found, run, compliance=COMMERCIAL)
    report = (run / REPORT).read_text("utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:5]] for line in report.splitlines() if "rows.jsonl" in line]
    assert lines == [
        ["rows.jsonl", "train", "12", "CC-BY-4.0"],
        ["rows.jsonl", "train", "3", "odd words"],
        ["rows.jsonl", "train", "6", "MIT"],
    ]


def test_without_the_column_the_source_counts(tmp_path: Path) -> None:
    with pytest.raises(TunesmithError, match=r"data\.non_commercial"):
        prepared(tmp_path, COMMERCIAL, "CC-BY-NC-4.0", licence_column=None)
    assert prepared(tmp_path, COMMERCIAL, licence_column=None).ledger.totals() == {"kept": 26}
    with pytest.raises(TunesmithError) as caught:
        prepared(tmp_path, COMMERCIAL, licence_column="license")
    assert caught.value.code == "data.missing_columns" and caught.value.facts["missing"] == "license"
