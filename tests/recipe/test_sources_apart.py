"""Two sources of one name are two on the card, in the ledger, in reports and in what the manifest says of them."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.core.ledger import Ledger
from tunesmith.data.card import card_sections
from tunesmith.data.card_pages import as_markdown
from tunesmith.data.prepare import prepare
from tunesmith.recipe.identity import source_hashes
from tunesmith.recipe.load import parse_recipe

RECIPE = """
model: {{base: smollm2-135m}}
data:
{data}
  clean: {{pii: report}}
stages: [{{name: instruct{stage}}}]
"""
TWO = """
  sources:
    - {path: ours/faq.jsonl, name: faq, licence: ours}
    - {path: theirs/faq.jsonl, name: faq, licence: CC-BY-4.0}
"""


def titles(data: str, stage: str = "") -> list[str]:
    return [source.title for source in parse_recipe(RECIPE.format(data=data, stage=stage)).all_sources]


def test_names_that_would_be_one() -> None:
    assert titles(TWO) == ["faq", "faq (theirs/faq.jsonl)"]
    of_splits = "  sources: [{path: set, split: train}]\n  test_sources: [{path: set, split: test}]"
    assert titles(of_splits) == ["set", "set (test)"]
    read_twice = "  sources: [{path: a.jsonl, columns: {prompt: x}}, {path: a.jsonl}, {path: a.jsonl, sample: 3}]"
    assert titles(read_twice) == ["a.jsonl", "a.jsonl (2)", "a.jsonl (3)"]
    stage = ", replay: {share: 0.5, sources: [{path: old.jsonl, name: faq}]}"
    assert titles("  sources: [{path: a.jsonl, name: faq}]", stage) == ["faq", "faq (old.jsonl)"]


def test_names_that_are_meant() -> None:
    assert titles("  sources: [{path: a/x.jsonl}, {path: b/x.jsonl}]") == ["a/x.jsonl", "b/x.jsonl"]
    same = "  sources: [{path: a.jsonl}]\n  test_sources: [{path: a.jsonl}]"
    assert titles(same) == ["a.jsonl", "a.jsonl"]
    tasks = "  tasks: {mood: text_class, topic: text_class}\n  sources: [{path: a, name: mood}, {path: b, name: mood}]"
    assert titles(tasks) == ["mood", "mood"]
    text = parse_recipe(RECIPE.format(data=TWO, stage="")).as_json()
    assert [each.title for each in parse_recipe(text).all_sources] == titles(TWO), "the lock means the same"


def test_they_stay_apart_in_all_that_is_written(tmp_path: Path) -> None:
    for place, count in (("ours", 12), ("theirs", 20)):
        (tmp_path / place).mkdir()
        rows = [
            {"prompt": f"{place} {n}: mail {place}{n}@example.org", "completion": f"answer {n}"} for n in range(count)
        ]
        (tmp_path / place / "faq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    recipe = parse_recipe(RECIPE.format(data=TWO, stage=""))
    ledger = Ledger()
    prepared = prepare(recipe.data, tmp_path, ledger)
    other = "faq (theirs/faq.jsonl)"
    assert [sum(entry.source == name for entry in ledger.entries()) for name in ("faq", other)] == [12, 20]
    assert [source.name for source in prepared.sources] == ["faq", other]
    assert {each.source: each.rows for each in prepared.personal[0].findings()} == {"faq": 12, other: 20}
    card = as_markdown(card_sections(prepared))
    lines = [line for line in card.splitlines() if line.startswith("| faq")]
    assert any("| faq |" in line and "ours" in line for line in lines)
    assert any(f"| {other} |" in line and "CC-BY-4.0" in line for line in lines)
    assert len(set(source_hashes(recipe, tmp_path))) == 2
