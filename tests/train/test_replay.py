"""Replay: each step holds its share of old rows, drawn by an index function; a fit that is broken off goes on alike."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from transformers import AutoModelForCausalLM

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes
from tunesmith.models.packed import Features
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.data import SourceSpec
from tunesmith.recipe.specs.replay import ReplaySpec
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit
from tunesmith.train.replay import ReplaySource


def rows(count: int, first: int = 0) -> list[Features]:
    return [Features(first + place, (1, 2, 3), (0.0, 1.0, 1.0)) for place in range(count)]


def spec(share: float) -> ReplaySpec:
    return ReplaySpec(share=share, sources=[SourceSpec(path="old.jsonl")])


@pytest.mark.parametrize(
    ("window", "share", "old"), [(8, 0.25, 2), (8, 0.01, 1), (8, 0.99, 7), (2, 0.5, 1), (10, 0.2, 2)]
)
def test_a_step_holds_its_share(window: int, share: float, old: int) -> None:
    assert spec(share).old_rows(window) == old
    source = ReplaySource(rows(40), rows(7, first=100), window, spec(share).old_rows(window), seed=1)
    new_per_step = window - old
    assert source.windows_per_epoch == -(-40 // new_per_step)
    for epoch in range(2):
        steps = range(epoch * source.windows_per_epoch, (epoch + 1) * source.windows_per_epoch)
        drawn = [source.window(step) for step in steps]
        seen = Counter(row.row for each in drawn for row in each if row.row < 100)
        assert seen == Counter(range(40)), "every new row once an epoch"
        assert all(sum(row.row >= 100 for row in each) == old for each in drawn[:-1])


def test_old_rows_come_round_equally_often_and_the_order_is_an_index_function() -> None:
    source = ReplaySource(rows(30), rows(7, first=100), 5, spec(0.4).old_rows(5), seed=1)
    steps = 4 * source.windows_per_epoch
    forward = [[row.row for row in source.window(step)] for step in range(steps)]
    again = ReplaySource(rows(30), rows(7, first=100), 5, spec(0.4).old_rows(5), seed=1)
    backward = {step: [row.row for row in again.window(step)] for step in reversed(range(steps))}
    assert forward == [backward[step] for step in range(steps)]
    counts = Counter(row for each in forward for row in each if row >= 100)
    assert len(counts) == 7 and max(counts.values()) - min(counts.values()) <= 1
    other = ReplaySource(rows(30), rows(7, first=100), 5, spec(0.4).old_rows(5), seed=2)
    assert forward != [[row.row for row in other.window(step)] for step in range(steps)]


def test_the_small_step_at_the_end_holds_fewer_old_rows() -> None:
    source = ReplaySource(rows(9), rows(7, first=100), 8, spec(0.5).old_rows(8), seed=1)
    assert [len(source.window(step)) for step in range(6)] == [8, 8, 2, 8, 8, 2]
    assert source.old_per_epoch == 9


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "base", spread=0.1)


REPLAY = {"replay": {"sources": [{"path": "old.jsonl"}], "share": 0.25}}


def test_broken_off_and_gone_on(base: Path, tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 9, None))):
        for stop in stops:
            fit(make_job(base, tmp_path / name, local(), add_ons=REPLAY), until=stop)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]
    assert checkpoint_paths(tmp_path / "whole")[-1].name == "checkpoint-16", "24 new rows, three a step, two epochs"


def test_one_row_a_step_has_no_room(base: Path, tmp_path: Path) -> None:
    with pytest.raises(TunesmithError, match="replay_no_room"):
        make_job(base, tmp_path, local(), settings={"batch_size": 1}, add_ons=REPLAY)


def test_the_layout_of_a_step_does_not_change_it(base: Path, tmp_path: Path) -> None:
    ends = []
    for name, layout in {"8": (8, 1), "2 x 4": (4, 2)}.items():
        settings = {
            "optimizer": "sgd",
            "epochs": 1.0,
            "batch_size": layout[0],
            "gradient_accumulation_steps": layout[1],
        }
        job = make_job(base, tmp_path / name, local(), settings=settings, dtype=torch.float64, rows=20, add_ons=REPLAY)
        fit(job)
        ends.append({key: each.detach().clone() for key, each in job.optimizer.masters.items()})
    for key, each in ends[0].items():
        assert (each - ends[1][key]).norm() <= 1e-9 * each.norm().clamp_min(1e-12), key


def test_losses_of_new_and_of_old_rows_are_told_apart_and_train_as_one(base: Path, tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    told = {}
    for name, layout in {"8": (8, 1), "2 x 4": (4, 2)}.items():
        seen: list[Event] = []
        settings = {"batch_size": layout[0], "gradient_accumulation_steps": layout[1]}
        job = make_job(
            base, tmp_path / name, local(), settings=settings, dtype=torch.float64, add_ons=REPLAY,
            emitter=Events(None, (seen.append,)),
        )  # fmt: skip
        window = job.source.window(0)
        fit(job, until=1)
        told[name] = next(event.values for event in seen if event.kind == "step")
    sums, weights = {"new": 0.0, "old": 0.0}, {"new": 0.0, "old": 0.0}
    for row in window:
        ids, weight = torch.tensor([row.token_ids]), torch.tensor(row.weights[1:], dtype=torch.float64)
        with torch.no_grad():
            shares = torch.log_softmax(plain(ids).logits[0, :-1], -1)
        which = "old" if row.row >= 2000 else "new"
        sums[which] -= float((shares.gather(1, ids[0, 1:, None])[:, 0] * weight).sum())
        weights[which] += float(weight.sum())
    for values in told.values():
        for which in sums:
            assert values[f"loss_of_{which}_rows"] == pytest.approx(sums[which] / weights[which], rel=1e-6)
        assert values["loss"] == pytest.approx(sum(sums.values()) / sum(weights.values()), rel=1e-6)
