"""Licences that rows state themselves go before their source's: judged, dropped with a reason, and counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from card_samples import sample_facts
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle
from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown
from tunesmith.data.clean import reasons_of_blank
from tunesmith.data.compliance import REPORT
from tunesmith.data.defects import Reason
from tunesmith.data.filters import reasons_to_filter
from tunesmith.data.licences import check_licences
from tunesmith.data.prepare import prepare, write
from tunesmith.data.prepared import Prepared
from tunesmith.data.raw import CLEANED_AWAY, write_raw
from tunesmith.evaluate.card import render_html, render_markdown
from tunesmith.evaluate.collect import data_facts
from tunesmith.models.tiny import tiny_chat_model
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


def test_raw_rows_are_judged_by_their_own_licences_too(tmp_path: Path) -> None:
    """`data gain`: a source that has the column alone is no source without a licence."""
    rows = [{"prompt": f"question {n}?", "completion": f"answer {n}", "lic": "MIT"} for n in range(40)]
    rows += [{**row, "prompt": f"<p>{row['prompt']}</p>", "lic": "CC-BY-4.0"} for row in rows[:20]]
    rows += [{"prompt": "not ours?", "completion": "no", "lic": "CC-BY-NC-4.0"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    clean = {"repair": {"rules": ["html"]}}
    spec = DataSpec.model_validate({"sources": [{"path": "rows.jsonl", "licence_column": "lic"}], "clean": clean})
    found = prepare(spec, tmp_path, Ledger(), compliance=REFUSING)
    raw = write_raw(spec, tmp_path, found.ledger, found.frames, tmp_path / "raw")
    sources = [*raw.sources, *raw.validation_sources, *raw.test_sources]
    check_licences(sources, REFUSING)
    again = prepare(raw, tmp_path, Ledger(), compliance=REFUSING)
    assert again.ledger.totals().keys() <= {"kept"} and len(again.frames["train"]) > len(found.frames["train"])
    licences = again.rows_by_licence()["rows.jsonl"]
    assert set(licences) == {"CC-BY-4.0", "MIT"} and licences["CC-BY-4.0"] > 0


def test_whatever_cleaning_drops_counts_as_cleaned_away() -> None:
    """A rule that is added is known to `data gain`: none of the reasons there is written down a second time."""
    other = {name for name in get_args(Reason) if name not in CLEANED_AWAY}
    assert CLEANED_AWAY >= reasons_to_filter() | reasons_of_blank()
    assert reasons_to_filter() >= {"gibberish", "repetition", "conflicting_answers", "other_language"}
    assert "same_answers" in CLEANED_AWAY, "after normalising both answers of a pair may be one"
    assert {"licence_forbids", "listed_content", "personal_data", "repeats_benchmark", "not_sampled"} <= other


def test_the_release_card_counts_rows_by_licence(tmp_path: Path) -> None:
    base = tiny_chat_model(tmp_path / "base", spread=0.1, context=2048)
    recipe = write_tiny_recipe(tmp_path, base, (40, 8, 12))
    file = tmp_path / "tickets" / "train.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    stated = [{**row, "lic": "CC-BY-NC-4.0" if n % 4 == 0 else "MIT"} for n, row in enumerate(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in stated), "utf-8")
    change = 'data.sources=[{"path": "tickets/train.jsonl", "licence_column": "lic"}]'
    work = lifecycle.start(recipe, (change,), tmp_path / "runs", ())
    lifecycle.prepare_data(work)
    facts = data_facts(work.path, work.recipe)
    train = {each.licence: (each.rows, each.commercial) for each in facts.sources if "train" in each.name}
    assert train == {"CC-BY-NC-4.0": (10, False), "MIT": (30, True)}
    sample = replace(sample_facts(), data=facts)
    for page in (render_html(sample), render_markdown(sample).replace("\\", "")):
        assert "30 rows, licence: MIT" in page and "10 rows, licence: CC-BY-NC-4.0 (no commercial use)" in page
