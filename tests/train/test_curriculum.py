"""Curriculum: easy rows first, in an order that is an index function; a fit that is broken off goes on alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from fits import examples, local, make_job
from transformers import AutoModelForCausalLM

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.packed import Features
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.load import parse_recipe
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.curriculum import CURRICULUM, CurriculumSource
from tunesmith.train.kept import TENSORS
from tunesmith.train.loop import fit

HARD = [float(place * 7 % 10) for place in range(30)]
"""Three rows of each hardness."""
ROWS = [Features(place, (1, 2, 3), (0.0, 1.0, 1.0)) for place in range(30)]


def order(source: CurriculumSource, epoch: int) -> list[int]:
    steps = range(epoch * source.windows_per_epoch, (epoch + 1) * source.windows_per_epoch)
    return [row.row for step in steps for row in source.window(step)]


def test_first_passes_go_from_easy_to_hard_and_later_ones_do_not() -> None:
    source = CurriculumSource(ROWS, HARD, 2, 4, seed=1)
    assert source.windows_per_epoch == 8
    for epoch in range(4):
        assert Counter(order(source, epoch)) == Counter(range(30)), "every row once a pass"
        rising = [HARD[row] for row in order(source, epoch)] == sorted(HARD)
        assert rising is (epoch < 2)
    assert order(source, 0) != order(source, 1), "rows of one hardness come in the order of chance"
    assert order(source, 0) != order(CurriculumSource(ROWS, HARD, 2, 4, seed=2), 0)


def test_the_order_is_an_index_function() -> None:
    source, again = (CurriculumSource(ROWS, HARD, 1, 4, seed=1) for _ in range(2))
    steps = 3 * source.windows_per_epoch
    forward = [[row.row for row in source.window(step)] for step in range(steps)]
    backward = {step: [row.row for row in again.window(step)] for step in reversed(range(steps))}
    assert forward == [backward[step] for step in range(steps)]


def test_an_order_without_effect_is_refused() -> None:
    with pytest.raises(TunesmithError, match="curriculum_one_step"):
        CurriculumSource(ROWS, HARD, 1, 30, seed=1)
    with pytest.raises(TunesmithError, match="curriculum_all_alike"):
        CurriculumSource(ROWS, [1.0] * 30, 1, 4, seed=1)


@pytest.mark.parametrize(
    ("stage", "code"),
    [
        ("{name: a, curriculum: {}, replay: {sources: [{path: o.jsonl}]}}", "compat.curriculum_order .*replay"),
        ("{name: a, curriculum: {}, objective: {kind: multitask}}", "compat.curriculum_order .*multitask"),
    ],
)
def test_another_order_beside_it_is_refused(stage: str, code: str) -> None:
    text = "model: {base: smollm2-135m}\ndata: {sources: [{path: a.jsonl}, {path: b.jsonl}]}\nstages: [{name: a}]\n"
    with pytest.raises(TunesmithError, match=code):
        check(parse_recipe(text, [f"stages.0={stage}"]))


def test_a_head_drawn_by_chance_has_no_losses_to_go_by() -> None:
    text = "model: {base: minilm-l6}\ndata: {task: text_class, sources: [{path: a.jsonl}]}\n"
    text += "stages: [{name: a, curriculum: {by: loss}}]\n"
    with pytest.raises(TunesmithError, match=r"compat.curriculum_loss"):
        check(parse_recipe(text))
    check(parse_recipe(text, ["stages.0.curriculum.by=length"]))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


def test_by_length_short_rows_come_first(base: Path, tmp_path: Path) -> None:
    job = make_job(base, tmp_path, local(), add_ons={"curriculum": {}})
    lengths = [len(row.token_ids) for step in range(6) for row in job.source.window(step)]
    assert lengths == sorted(lengths) and len(set(lengths)) > 1
    later = [len(row.token_ids) for step in range(6, 12) for row in job.source.window(step)]
    assert later != sorted(later) and sorted(later) == lengths
    assert not (tmp_path / CURRICULUM).exists()


def test_losses_are_those_of_transformers_and_order_the_rows(base: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    emitter = Events(None, (seen.append,))
    job = make_job(
        base, tmp_path, local(), add_ons={"curriculum": {"by": "loss"}}, dtype=torch.float64, emitter=emitter
    )
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    ordered = [row for step in range(job.source.windows_per_epoch) for row in job.source.window(step)]
    assert sorted(row.row for row in ordered) == [example.row for example in examples(24)]
    losses = []
    for row in ordered:
        ids, weights = torch.tensor([row.token_ids]), torch.tensor(row.weights[1:], dtype=torch.float64)
        with torch.no_grad():
            shares = torch.log_softmax(plain(ids).logits[0, :-1], -1).gather(1, ids[0, 1:, None])[:, 0]
        losses.append(float(-(shares * weights).sum() / weights.sum()))
    assert losses == sorted(losses)
    (note,) = (event.values for event in seen if event.values.get("code") == "train.curriculum_loss")
    assert note["easiest"] == f"{losses[0]:.4g}" and note["hardest"] == f"{losses[-1]:.4g}"


@pytest.mark.parametrize("by", ["length", "loss"])
def test_broken_off_and_gone_on(base: Path, tmp_path: Path, by: str) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 7, None))):
        for stop in stops:
            fit(make_job(base, tmp_path / name, local(), add_ons={"curriculum": {"by": by}}), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


def test_losses_are_measured_once_and_never_taken_on_trust(base: Path, tmp_path: Path) -> None:
    add_ons = {"curriculum": {"by": "loss"}}
    fit(make_job(base, tmp_path, local(), add_ons=add_ons), until=2)
    before = (tmp_path / CURRICULUM / TENSORS).stat().st_mtime_ns
    make_job(base, tmp_path, local(), add_ons=add_ons)
    assert (tmp_path / CURRICULUM / TENSORS).stat().st_mtime_ns == before
    with pytest.raises(TunesmithError, match="kept_differs"):
        make_job(base, tmp_path, local(), add_ons=add_ons, rows=20)
