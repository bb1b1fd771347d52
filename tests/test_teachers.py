"""Teachers in the life cycle: a folder, and a finished run whose tuned model teaches."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import read_events
from tunesmith.core.run import METRICS
from tunesmith.models.tiny import tiny_chat_model


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_tiny_recipe(tmp_path, tiny_chat_model(tmp_path / "base", spread=0.1, context=2048))


def taught(recipe: Path, teacher: object, **settings: object) -> lifecycle.Work:
    objective = {"kind": "distill", "teacher": str(teacher), **settings}
    change = f"stages.0.objective={objective}".replace("'", '"')
    return lifecycle.start(recipe, (change,), recipe.parent / "runs", ())


def test_a_folder_teaches_and_is_asked_once(recipe: Path, tmp_path: Path) -> None:
    tiny_chat_model(tmp_path / "teacher", spread=0.3, seed=9, context=2048)
    work = taught(recipe, "./teacher", top_k=8)  # from where the recipe lies, as every path of it
    lifecycle.run_to_release(work)
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert all(float(str(each["divergence"])) > 0 for each in steps)
    validations = [event.values for event in read_events(work.path / METRICS, "validation")]
    assert all({"loss", "cross_entropy", "divergence"} <= each.keys() for each in validations)
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal
    (work.path / "instruct" / "teacher" / "tensors.safetensors").unlink()
    with pytest.raises(TunesmithError, match="missing_file"):
        proof.verify(work)


def test_a_tuned_model_teaches(recipe: Path) -> None:
    first = lifecycle.start(recipe, (), recipe.parent / "runs", ())
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        stage(first)
    work = taught(recipe, first.path, alpha=1.0)
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        stage(work)
    told = [float(str(event.values["divergence"])) for event in read_events(work.path / METRICS, "step")]
    assert told[0] > 0 and sum(told[-3:]) < sum(told[:3]), "the student comes nearer to the tuned model"


def test_a_teacher_that_changed_is_another_training(recipe: Path, tmp_path: Path) -> None:
    tiny_chat_model(tmp_path / "teacher", spread=0.3, seed=9, context=2048)
    work = taught(recipe, tmp_path / "teacher")
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.measure_baseline, lifecycle.train):
        stage(work)
    tiny_chat_model(tmp_path / "teacher", spread=0.3, seed=10, context=2048)
    with pytest.raises(TunesmithError, match="resume_differs"):
        proof.verify(work)
