"""Choosing a state without labels of the target: by the loss in the source and the distance of the domains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from class_fits import class_examples, head_of, make_class_job
from class_rows import as_examples, text_rows, token_rows
from fits import local
from torch import Tensor

from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Emitter, Event, Events
from tunesmith.models.packed import Features
from tunesmith.models.tiny import tiny_encoder
from tunesmith.objectives.alignment import gaussian_divergence, mean_discrepancy
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.objectives import MmdSpec
from tunesmith.tasks.registry import class_task_of
from tunesmith.tasks.unlabelled import with_stand_ins
from tunesmith.train.loop import Job, fit

OBJECTIVE = {
    "kind": "adversarial", "target_sources": [{"path": "other.jsonl"}], "kl": 0.3, "mmd": {"weight": 2.0},
    "reversal": {"hidden_size": 16},
}  # fmt: skip
CHOSEN = {"early_stopping": {"metric": "adapted_loss"}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("body") / "encoder", spread=0.1)


def make(base: Path, folder: Path, kind: str = "text_class", emitter: Emitter = SILENT, **settings: object) -> Job:
    return make_class_job(
        base, folder, local(), kind, objective=OBJECTIVE, dtype=torch.float64, emitter=emitter,
        settings={"batch_size": 8, **CHOSEN, **settings},
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["text_class", "token_class"])
def test_the_figure_is_the_loss_and_the_stated_distances(base: Path, kind: str, tmp_path: Path) -> None:
    job = make(base, tmp_path, kind)
    task, head = class_task_of(base, head_of(kind), 96, base), head_of(kind)
    rows = token_rows if kind == "token_class" else text_rows
    others = with_stand_ins({"target": as_examples(rows(10, seed=2), first=500)}, {"target"}, head.labels)["target"]

    def features(examples: list[Features]) -> Tensor:
        """The mean over the places of answer, one row a pass."""
        job.policy.eval()
        with torch.no_grad():
            found = torch.stack([job.policy.hidden(task.pack([each])).mean(0) for each in examples])
        job.policy.train()
        return found

    source = features([task.encode(each).features for each in class_examples(kind)[24:]])
    target = features([task.encode(each).features for each in others])
    figures = job.validate()
    kl, mmd = gaussian_divergence(source, target), mean_discrepancy(source, target, MmdSpec())
    assert figures["kl"] == pytest.approx(0.3 * float(kl)) and float(kl) > 0
    assert figures["mmd"] == pytest.approx(2.0 * float(mmd)) and float(mmd) > 0
    assert figures["adapted_loss"] == pytest.approx(figures["loss"] + figures["kl"] + figures["mmd"])
    assert job.policy.training


def test_the_state_with_the_least_of_it_is_kept(base: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    job = make(base, tmp_path, emitter=Events(None, (seen.append,)), eval_steps=1, epochs=4.0)
    result = fit(job)
    told = [event.values for event in seen if event.kind == "validation"]
    values = [float(str(each["adapted_loss"])) for each in told]
    assert len(values) == job.total_steps > 4
    assert [each["best"] for each in told] == [
        value < min(values[:place], default=9e9) for place, value in enumerate(values)
    ]
    assert result.stopper.best_value == pytest.approx(min(values)) and result.stopper.lower_is_better
    assert all({"loss", "kl", "mmd"} <= each.keys() for each in told)


def test_so_many_rows_of_either_domain_are_looked_at(base: Path, tmp_path: Path) -> None:
    few, whole = (
        make(base, tmp_path / str(rows), early_stopping={"metric": "adapted_loss", "rows": rows}) for rows in (4, 64)
    )
    found = few.validate()
    assert found == few.validate(), "the same rows every time"
    assert found["loss"] == whole.validate()["loss"] and found["kl"] != whole.validate()["kl"]
    with pytest.raises(TunesmithError, match="domains_too_few"):
        make(base, tmp_path / "none", early_stopping={"metric": "adapted_loss", "rows": 1})


def test_without_a_distance_there_is_nothing_to_choose_by() -> None:
    stage = {"name": "s", "objective": OBJECTIVE, "train": CHOSEN}
    data = {"task": "text_class", "sources": [{"path": "a.jsonl"}]}
    recipe = json.dumps({"model": {"base": "m"}, "data": data, "stages": [stage]})
    check(parse_recipe(recipe, []))
    alone = json.dumps({name: OBJECTIVE[name] for name in ("kind", "target_sources", "reversal")})
    for other in (alone, "{kind: supervised}"):
        with pytest.raises(TunesmithError, match=r"compat\.no_domain_distance"):
            check(parse_recipe(recipe, [f"stages.0.objective={other}"]))
