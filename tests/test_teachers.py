"""Teachers in the life cycle: a folder, and a finished run whose tuned model teaches."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from teacher_service import Reply, Service, said
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import read_events
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import METRICS
from tunesmith.messages import say
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.ship.teachers import ANSWERS
from tunesmith.tasks.taught import read_answers


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


def test_the_answers_of_a_service_are_the_rows(recipe: Path) -> None:
    service = Service()
    service.replies = [(200, {}, said("")), (200, {}, said("x", "length")), (400, {}, b"no")]
    try:
        work = taught(recipe, "big", level="sequence", hosted={"base_url": service.url, "concurrency": 1})
        lifecycle.prepare_data(work)
    finally:
        service.close()
    train = work.examples("train")
    assert len(train) == 37 and all(example.messages[-1].content == "fine" for example in train)
    dropped = [entry.reason for entry in Ledger.load(work.path / "ledger.jsonl").entries() if entry.fate == "dropped"]
    assert dropped == ["teacher_answer_empty", "teacher_answer_cut", "teacher_gave_no_answer"]
    assert all(example.messages[-1].content != "fine" for example in work.examples("test"))
    assert "37" in (work.path / "data_card.md").read_text("utf-8")
    lifecycle.plan(work)
    lifecycle.measure_baseline(work)
    lifecycle.train(work)
    steps = [event.values for event in read_events(work.path / METRICS, "step")]
    assert all("divergence" not in each and float(str(each["loss"])) > 0 for each in steps)
    proof.verify(work, replay=False)
    (work.path / ANSWERS).write_bytes(b"")
    with pytest.raises(TunesmithError, match="hash_differs"):
        proof.verify(work, replay=False)


def test_a_model_of_this_machine_that_never_ends_teaches_nothing(recipe: Path, tmp_path: Path) -> None:
    tiny_chat_model(tmp_path / "teacher", spread=0.3, seed=9, context=2048)
    recipe.write_text(
        recipe.read_text("utf-8").replace("{path: tickets/train.jsonl", "{sample: 8, path: tickets/train.jsonl"),
        "utf-8",
    )
    work = taught(recipe, "./teacher", level="sequence", max_new_tokens=2)
    with pytest.raises(TunesmithError, match="nothing_left") as error:
        lifecycle.prepare_data(work)
    assert "(teacher_answer_cut)" in str(error.value.facts["reason"])
    assert len(read_answers(work.path / ANSWERS)) == 8, "kept, so that a rerun asks nothing twice"


def answer_of(body: dict[str, object]) -> Reply:
    """Another person's phone in every answer."""
    question = json.dumps(body["messages"]).encode()
    return 200, {}, said(f"Call 1391234{int(hashlib.sha256(question).hexdigest(), 16) % 10_000:04d} for it.")


def files_with(folder: Path, words: bytes) -> list[str]:
    return [each.name for each in folder.rglob("*") if each.is_file() and words in each.read_bytes()]


def test_answers_as_they_came_go_with_the_personal_data_that_they_hold(recipe: Path) -> None:
    """Broken off in the middle they are there and not asked for again; the rows are those of an unbroken run."""
    service, tables = Service(answer_of), []
    hosted = {"base_url": service.url, "concurrency": 1}
    objective = {"kind": "distill", "teacher": "big", "level": "sequence", "hosted": hosted}
    changes = (f"stages.0.objective={json.dumps(objective)}", 'data.clean={"pii": {"action": "mask"}}')
    try:
        for runs in ("unbroken", "broken"):
            work = lifecycle.start(recipe, changes, recipe.parent / runs, ())
            if runs == "broken":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(work.run, "finish_stage", _stops)
                    with pytest.raises(KeyboardInterrupt):
                        lifecycle.prepare_data(work)
                assert files_with(work.path, b"1391234") == [ANSWERS], "what was paid for waits for the next attempt"
                work = lifecycle.start(recipe, changes, recipe.parent / runs, ())
            lifecycle.prepare_data(work)
            tables.append((work.path / "data" / "train.parquet").read_bytes())
            assert not files_with(work.path, b"1391234") and not (work.path / ANSWERS).exists()
            assert all("<PHONE_" in example.messages[-1].content for example in work.examples("train"))
            assert say("data.answers_forgotten") in (work.path / "data_card.md").read_text("utf-8")
            lifecycle.prepare_data(work)
            work.run.check_files("data")
    finally:
        service.close()
    assert tables[0] == tables[1] and len(service.seen) == 40 + 40


def _stops(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_answers_left_by_a_crash_behind_the_stage_go_with_the_next_start(recipe: Path) -> None:
    work = lifecycle.start(recipe, ('data.clean={"pii": {"action": "mask"}}',), recipe.parent / "runs", ())
    lifecycle.prepare_data(work)
    (work.path / ANSWERS).write_text("{}\n", "utf-8")
    lifecycle.prepare_data(work)
    assert not (work.path / ANSWERS).exists()


def test_a_service_that_takes_no_question_is_named_with_its_words(recipe: Path) -> None:
    service = Service(lambda body: (400, {}, b"Unsupported parameter: 'max_tokens'"))
    try:
        work = taught(recipe, "big", level="sequence", hosted={"base_url": service.url})
        with pytest.raises(TunesmithError, match="teacher_refuses") as error:
            lifecycle.prepare_data(work)
    finally:
        service.close()
    assert "Unsupported parameter" in str(error.value.facts["said"])
