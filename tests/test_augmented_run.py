"""Augmentation in the life cycle: words from a file, and a service that breaks off in the middle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from teacher_service import Service, said
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.prepare import load_splits
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.ship.teachers import GENERATED


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("order purchase\nthe this\nplease kindly\nmy our\nis was\n", "utf-8")
    return write_tiny_recipe(tmp_path, tiny_chat_model(tmp_path / "base", spread=0.1, context=2048))


def started(recipe: Path, augment: dict[str, object]) -> lifecycle.Work:
    change = f"data.augment={augment}".replace("'", '"')
    return lifecycle.start(recipe, (change,), recipe.parent / "runs", ())


def test_children_are_trained_and_everything_is_proven(recipe: Path) -> None:
    plain = lifecycle.start(recipe, (), recipe.parent / "runs", ())
    work = started(recipe, {"synonyms": {"dictionary": "words.txt"}, "edit": {}})
    for each in (plain, work):
        lifecycle.prepare_data(each)
    rows = load_splits(work.path)
    assert rows["test"].equals(load_splits(plain.path)["test"])
    children = rows["train"].filter(rows["train"]["parent"].is_not_null())
    assert len(children) > 40 and rows["validation"]["parent"].is_null().all()
    manifest = work.run.manifest()
    assert manifest["data_version"] != plain.run.manifest()["data_version"]
    lifecycle.plan(work)
    lifecycle.measure_baseline(work)
    lifecycle.train(work)
    proof.verify(work, replay=False)
    dictionary = recipe.parent / "words.txt"
    dictionary.write_text(dictionary.read_text("utf-8") + "new word\n", "utf-8")
    other = started(recipe, {"synonyms": {"dictionary": "words.txt", "share": 0.2}})
    assert other.path != work.path, "another dictionary is another run"


def test_a_generator_that_breaks_off_is_asked_only_what_is_missing(recipe: Path) -> None:
    service = Service()
    service.replies = [(200, {}, said(f"{'Other words of the ticket ' * 3}{number}")) for number in range(7)]
    service.replies += [(500, {}, b"")] * 3
    hosted = {"base_url": service.url, "tries": 1, "timeout_seconds": 20.0, "concurrency": 1}
    augment = {"paraphrase": {}, "generator": {"model": "big", "hosted": hosted}}
    try:
        work = started(recipe, augment)
        with pytest.raises(TunesmithError, match="teacher_unreachable"):
            lifecycle.prepare_data(work)
        assert work.run.stage("data") is None and not (work.path / "data").exists()
        asked = len(service.seen)
        again = started(recipe, augment)
        assert again.path == work.path
        lifecycle.prepare_data(again)
    finally:
        service.close()
    assert asked == 10 and len(service.seen) == 10 + 33, "seven answers were kept"
    ledger = Ledger.load(work.path / "ledger.jsonl")
    made = [entry for entry in ledger.entries() if entry.parent is not None]
    assert len(made) == 40 and sorted(entry.parent or 0 for entry in made) == sorted(
        {entry.parent or 0 for entry in made}
    )
    reasons = Counter(entry.reason for entry in made)
    assert reasons["made_by_paraphrase"] == 7 and reasons["made_of_odd_length"] == 33
    assert work.run.recorded(work.path / GENERATED)
