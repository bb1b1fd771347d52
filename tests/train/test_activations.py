"""Activations of blocks that never change: the same fit with less work, and nothing taken on trust."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from class_rows import as_examples, text_rows, token_rows
from fits import local, make_job
from torch import Tensor

from tunesmith.core.conditions import Conditions
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes, verify_folder
from tunesmith.messages import say
from tunesmith.models.blocks import blocks_of
from tunesmith.models.heads import Head, HeadTask
from tunesmith.models.load import load_with_head, resolve_base
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.model import Dropout, Quantize
from tunesmith.tasks.classes import label_set
from tunesmith.tasks.registry import class_task_of
from tunesmith.train import activations
from tunesmith.train import build as build_room
from tunesmith.train.build import StageInputs, build
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import Job, fit
from tunesmith.train.validation import no_task_metric

TOP = {"kind": "lora", "rank": 4, "first_layer": -1}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "activations"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("chat") / "base", layers=3, spread=0.1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "base", layers=3, spread=0.1)


def class_job(
    base: Path, folder: Path, task: HeadTask, events: list[Event], dropout: Dropout | None = None, **settings: object
) -> Job:
    rows = as_examples(text_rows(24) if task == "text_class" else token_rows(24))
    head = Head(task, label_set(rows))
    made = class_task_of(base, head, 128, base)
    features = [made.encode(each).features for each in rows]
    train = {"epochs": 3.0, "batch_size": 4, "learning_rate": 1e-2, **settings}
    stage = StageSpec.model_validate({"name": "s", "adapt": TOP, "train": train})
    inputs = StageInputs(
        load_with_head(base, head, dtype=torch.float64, dropout=dropout), resolve_base(str(base)), made,
        features[:20], features[20:], folder, Conditions({"key": "key"}), no_task_metric,
    )  # fmt: skip
    return build(stage, inputs, local(), Events(None, (events.append,)))


def changes(job: Job) -> dict[str, Tensor]:
    fit(job)
    return {name: each.detach().clone() for name, each in job.optimizer.masters.items()}


def notes(events: list[Event]) -> list[str]:
    return [str(each.values["code"]) for each in events if each.kind == "note"]


@pytest.mark.parametrize("task", ["text_class", "token_class"])
def test_a_fit_on_kept_activations_is_the_same_fit(
    encoder: Path, task: HeadTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    kept = changes(class_job(encoder, tmp_path / "kept", task, events))
    assert notes(events) == ["train.activations"]
    monkeypatch.setattr(build_room, "kept_activations", lambda *_: None)
    plain = changes(class_job(encoder, tmp_path / "plain", task, []))
    assert kept.keys() == plain.keys()
    for name in kept:
        torch.testing.assert_close(kept[name], plain[name], rtol=1e-7, atol=1e-9, msg=name)


def test_rows_that_share_a_beginning_take_it_from_one_of_them(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(name: str) -> Job:
        events: list[Event] = []
        made = make_job(
            chat, tmp_path / name, local(), adapt=TOP, dtype=torch.float64, emitter=Events(None, (events.append,)),
            beginning="You answer the customers of a shop for lamps and fans in one word.",
        )  # fmt: skip
        assert notes(events) == (["train.activations"] if name == "kept" else [])
        return made

    kept = job("kept")
    batches = kept.passes.cut(0, kept.source.window(0))
    assert any(parent >= 0 for batch in batches for parent in batch.parent.tolist()), "a shared beginning"
    assert all(batch.below is not None and batch.below.shape[0] == batch.num_tokens for batch in batches)
    monkeypatch.setattr(build_room, "kept_activations", lambda *_: None)
    first, second = changes(kept), changes(job("plain"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-7, atol=1e-9, msg=name)


def test_the_lower_blocks_are_not_run_again(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = class_job(encoder, tmp_path / "run", "text_class", [])
    policy = job.policy
    assert isinstance(policy, Policy) and policy.blocks_kept == 2
    ran: list[int] = []
    for place, block in enumerate(blocks_of(policy.model)):
        block.register_forward_hook(lambda *_, place=place: ran.append(place))
    fit(job)
    assert set(ran) == {2}
    monkeypatch.setattr(build_room, "kept_activations", lambda *_: None)
    with_kept, plain = job.meter(0), class_job(encoder, tmp_path / "plain", "text_class", []).meter(0)
    (batch, *_) = job.passes.cut(0, job.source.window(0))
    assert with_kept.of_batch(batch).executed < 0.6 * plain.of_batch(replace(batch, below=None)).executed


def test_a_later_fit_finds_them_and_damaged_ones_are_computed_again(
    encoder: Path, own_cache: Path, tmp_path: Path
) -> None:
    class_job(encoder, tmp_path / "first", "text_class", [])
    (folder,) = own_cache.iterdir()
    events: list[Event] = []
    class_job(encoder, tmp_path / "second", "text_class", events, learning_rate=5e-3)
    assert notes(events) == ["train.activations_found"] and list(own_cache.iterdir()) == [folder]
    (told,) = [event.values for event in events if event.kind == "note"]
    for code in ("train.activations", "train.activations_found"):
        facts = {name: value for name, value in told.items() if name != "code"}
        assert "2" in say(code, **facts)  # type: ignore[arg-type]
    path = folder / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    events.clear()
    class_job(encoder, tmp_path / "third", "text_class", events)
    assert notes(events) == ["train.activations_damaged", "train.activations"]
    verify_folder(folder)


def test_the_same_weights_in_codes_or_under_other_settings_are_not_those(
    chat: Path, own_cache: Path, tmp_path: Path
) -> None:
    """The hash of a base is that of its weights: how they are held and what the body does with them is told beside."""
    other = tmp_path / "other"
    shutil.copytree(chat, other, ignore=shutil.ignore_patterns("manifest.json"))
    config = json.loads((other / "config.json").read_text("utf-8"))
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-2}), "utf-8")
    kept: list[Tensor | None] = []
    ways: list[tuple[Path, Quantize]] = [(chat, "none"), (chat, "int8"), (other, "none")]
    for place, (base, quantize) in enumerate(ways):
        events: list[Event] = []
        listener = Events(None, (events.append,))
        job = make_job(base, tmp_path / str(place), local(), adapt=TOP, quantize=quantize, emitter=listener)
        assert notes(events) == ["train.activations"] and len(list(own_cache.iterdir())) == place + 1
        kept.append(job.passes.cut(0, job.source.window(0))[0].below)
    assert kept[0] is not None and not any(torch.equal(kept[0], each) for each in kept[1:] if each is not None)


def test_without_room_the_blocks_are_run_every_time(
    encoder: Path, own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    monkeypatch.setattr(activations, "free_disk_bytes", lambda _: 1000)
    job = class_job(encoder, tmp_path / "run", "text_class", events)
    assert notes(events) == ["train.activations_no_room"] and not own_cache.exists()
    assert isinstance(job.policy, Policy) and job.policy.blocks_kept == 0
    (told,) = [event.values for event in events if event.kind == "note"]
    assert "2" in say("train.activations_no_room", **{k: v for k, v in told.items() if k != "code"})  # type: ignore[arg-type]


def test_a_resume_ends_with_the_same_bytes_also_without_the_cache(
    encoder: Path, own_cache: Path, tmp_path: Path
) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, 5, None))):
        for stop in stops:
            fit(class_job(encoder, tmp_path / name, "text_class", []), until=stop)
            if stop == 2:
                shutil.rmtree(own_cache)
        hashes = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in hashes.items() if file != "state.json"})
    assert ends[0] == ends[1]


def test_one_epoch_or_nothing_below_keeps_nothing(chat: Path, own_cache: Path, tmp_path: Path) -> None:
    make_job(chat, tmp_path / "one epoch", local(), adapt=TOP, settings={"epochs": 1.0})
    make_job(chat, tmp_path / "all blocks", local(), adapt={"kind": "lora"})
    make_job(chat, tmp_path / "prompt", local(), adapt={"kind": "prompt"})
    assert not own_cache.exists()


def test_what_dropout_changes_every_time_is_not_kept(
    encoder: Path, chat: Path, own_cache: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    job = class_job(encoder, tmp_path / "run", "token_class", events, dropout="own")
    assert notes(events) == ["train.activations_dropout"] and not own_cache.exists()
    assert isinstance(job.policy, Policy) and job.policy.blocks_kept == 0
    assert "2" in say("train.activations_dropout", blocks=2)
    events.clear()
    job = class_job(chat, tmp_path / "head", "token_class", events, dropout=0.2)
    assert notes(events) == ["train.activations"], "only its head drops"
