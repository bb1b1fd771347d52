"""Newest rows asked about, easy rows learned first: through the whole life cycle, with every proof."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.core.run import LOCK
from tunesmith.data.prepare import load_splits
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.train.curriculum import CURRICULUM

SPLIT = "  sources: [{path: rows.jsonl}]\n  split: {time_by: at}\n"


def recipe(folder: Path) -> Path:
    base = tiny_chat_model(folder / "base", spread=0.1, context=2048)
    path = write_tiny_recipe(folder, base)
    head, rest = path.read_text("utf-8").split("  sources:", 1)
    stages = rest[rest.index("stages:") :].replace(
        "- name: instruct\n", "- name: instruct\n    curriculum: {by: loss}\n"
    )
    path.write_text(head + SPLIT + stages, "utf-8")
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"prompt": f"What is {place} + 1?", "completion": str(place + 1), "at": (begin + timedelta(place)).isoformat()}
        for place in range(48)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[::-1]), "utf-8")
    return path


def test_by_time_and_from_easy_to_hard_from_recipe_to_proof(tmp_path: Path) -> None:
    work = lifecycle.start(recipe(tmp_path), (), tmp_path / "runs", ())
    lifecycle.run_to_release(work)
    frames = load_splits(work.path)
    train, validation, test = (frame["time"].to_list() for frame in frames.values())
    assert max(train) < min(validation) and max(validation) < min(test)
    assert "2026-02-17T00:00:00Z" in (work.path / "data_card.md").read_text("utf-8"), "the newest row is asked about"
    assert "time_by: at" in (work.path / LOCK).read_text("utf-8")
    assert (work.path / "instruct" / CURRICULUM / "manifest.json").is_file()
    assert f"instruct/{CURRICULUM}/manifest.json" in work.run.manifest()["files"]
    assert json.loads((work.path / "plan.json").read_text("utf-8")), "the plan stands"
    proof.verify(work)
