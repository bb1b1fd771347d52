"""Rows of older tasks through the whole life cycle: read, cleaned, kept apart from the test, trained on, proven."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import read_events
from tunesmith.core.files import read_manifest
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import METRICS
from tunesmith.data.prepare import load_beside, load_tables
from tunesmith.data.rejected import rejected_rows
from tunesmith.models.tiny import tiny_chat_model

ADD_ONS = """
    penalties: {l2_sp: 0.01, ewc: {weight: 5, rows: 6, sources: [{path: tickets/old.jsonl}]}}
    replay: {share: 0.25, sources: [{path: tickets/old.jsonl, name: again}]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    base = tiny_chat_model(tmp_path / "base", spread=0.1, context=2048)
    path = write_tiny_recipe(tmp_path, base)
    text = path.read_text("utf-8").replace("  - name: instruct\n", f"  - name: instruct{ADD_ONS.rstrip()}\n")
    text = text.replace("evaluate: {", "evaluate: {forgetting: [probes], ")
    path.write_text(text, "utf-8")
    (tmp_path / "probes").mkdir()
    asked = [
        {"question": f"{place} is", "choices": ["odd", "even", "blue"], "answer": 1 - place % 2} for place in range(9)
    ]
    (tmp_path / "probes" / "probe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), "utf-8")
    old = [{"prompt": f"What is {place} + 1?", "completion": str(place + 1)} for place in range(12)]
    (tmp_path / "tickets" / "old.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*old, old[0]]), "utf-8")
    return path


def test_old_rows_from_recipe_to_proof(recipe: Path) -> None:
    work = lifecycle.start(recipe, (), recipe.parent / "runs", ())
    lifecycle.prepare_data(work)
    tables = load_beside(work.path)
    assert {name: len(each) for name, each in tables.items()} == {"instruct-ewc": 12, "instruct-replay": 12}
    ledger = Ledger.load(work.path / "ledger.jsonl")
    again = [entry for entry in ledger.entries() if entry.source == "again"]
    assert [entry.fate for entry in again][:13] == ["kept"] * 12 + ["merged"], "every old row has one fate"
    rows = [row for frame in load_tables(work.path).values() for row in frame["row"]]
    assert sorted(rows) == ledger.kept_rows()
    assert "instruct-replay" in (work.path / "data_card.md").read_text("utf-8")
    old = [source for sources in work.recipe.sources_beside.values() for source in sources]
    refused = [json.loads(line) for line in rejected_rows(work.recipe.data, work.recipe_folder, ledger, old)]
    assert [each["source"] for each in refused].count("again") == len(again) - 12

    lifecycle.run_to_release(work)
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert all("ewc" in each and "l2_sp" in each for each in steps)
    notes = {event.values["code"]: event.values for event in read_events(work.path / METRICS, "note")}
    assert (notes["train.replay"]["old"], notes["train.replay"]["rows"]) == (2, 8)
    assert steps[-1]["total_steps"] == 2 * -(-40 // 6), "two of the eight rows of a step are old"
    assert read_manifest(work.path / "instruct" / "fisher")["facts"]
    for page in ("release_card.md", "release_card.html"):
        assert "9 questions with choices" in (work.path / page).read_text("utf-8").replace("probes", ""), page
    probed = {event.values["model"]: event.values for event in read_events(work.path / METRICS, "probed")}
    assert probed.keys() == {"base", "tuned"} and probed["base"]["margin"] != probed["tuned"]["margin"]
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal

    fisher = work.path / "instruct" / "fisher" / "tensors.safetensors"
    fisher.write_bytes(fisher.read_bytes()[:-1] + b"x")
    with pytest.raises(TunesmithError, match="hash_differs"):
        proof.verify(work)


def test_an_old_row_that_the_test_asks_is_dropped(recipe: Path, tmp_path: Path) -> None:
    test = [json.loads(line) for line in (tmp_path / "tickets" / "test.jsonl").read_text("utf-8").splitlines()]
    with (tmp_path / "tickets" / "old.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(each) + "\n" for each in [*test[:3], *_others(tmp_path)])
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.prepare_data(work)
    entries = [entry for entry in Ledger.load(work.path / "ledger.jsonl").entries() if entry.source == "again"]
    assert [entry.reason for entry in entries[:3]] == ["prompt_also_in_test"] * 3
    frame = pl.read_parquet(work.path / "data" / "instruct-replay.parquet")
    assert len(frame) == len(_others(tmp_path))


def _others(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "tickets" / "train.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines[:5]]


def test_an_edited_old_row_is_another_run(recipe: Path) -> None:
    first = lifecycle.start(recipe, (), recipe.parent / "runs", ()).path
    assert lifecycle.start(recipe, (), recipe.parent / "runs", ()).path == first
    with (recipe.parent / "tickets" / "old.jsonl").open("a") as rows:
        rows.write(" \n")
    assert lifecycle.start(recipe, (), recipe.parent / "runs", ()).path != first
