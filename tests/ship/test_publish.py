"""The gate: good artefacts are published, planted faults never are, and what was there before stays."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes, verify_folder
from tunesmith.core.types import Message
from tunesmith.models.load import BaseFolder, load_model, resolve_base
from tunesmith.models.weights import read_weights
from tunesmith.recipe.specs.ship import ParityLimits, ShipFormat
from tunesmith.ship import publish
from tunesmith.ship.formats import gguf as gguf_format
from tunesmith.ship.merge import Merged, merge
from tunesmith.ship.parity import TaskMetric, _gap_check, _largest

FORMATS: list[ShipFormat] = ["safetensors", "gguf-f16", "gguf-q8_0"]
GGUF_FORMATS: list[ShipFormat] = ["gguf-f16", "gguf-q8_0"]


class Trained(NamedTuple):
    """As in conftest.py."""

    base: BaseFolder
    adapter: Path
    chats: list[list[Message]]


def ship(
    run: Path, trained: Trained, formats: list[ShipFormat], metric: TaskMetric | None = None, **limits: float
) -> list[publish.Artifact]:
    checked = ParityLimits(chats=len(trained.chats), **limits)
    return publish.ship_formats(
        publish.Shipping(run, trained.base, trained.adapter, trained.chats, metric, checked), formats
    )


def refused(run: Path, trained: Trained, kind: ShipFormat, **limits: float) -> TunesmithError:
    """The error, after proving that nothing was published and nothing of the attempt is left."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(TunesmithError) as caught:
        ship(run, trained, [kind], **limits)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    return caught.value


@pytest.fixture(scope="module")
def published(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, publish.Artifact]:
    # Q8_0 gets more room here: a random tiny model is far less sure of its tokens than a real one
    run = tmp_path_factory.mktemp("runs") / "demo" / "20260101-000000"
    return {each.format: each for each in ship(run, trained, FORMATS, top1_gguf_q8_0=0.95)}


def test_every_format_is_published_whole(published: dict[str, publish.Artifact]) -> None:
    assert list(published) == FORMATS
    for artifact in published.values():
        manifest = verify_folder(artifact.path)
        assert manifest["artefact_format"] == artifact.format
        assert json.loads((artifact.path / "parity.json").read_text())["ok"] is True
        assert artifact.parity.ok and artifact.parity.positions > 100
        assert artifact.weights_sha256 in folder_hashes(artifact.path).values()
        card = (artifact.path / "README.md").read_text()
        assert "Proven equal" in card and "一致性证明" in card and str(manifest["template_sha256"]) in card


def test_the_merged_folder_runs_on_its_own(published: dict[str, publish.Artifact], trained: Trained) -> None:
    folder = str(published["safetensors"].path)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.dtype == torch.float32
    own = load_model(trained.base.path, dtype=torch.float32).tokenizer
    text = "<|im_start|>user\n订单 123<|im_end|>"
    assert AutoTokenizer.from_pretrained(folder, local_files_only=True)(text).input_ids == own(text).input_ids


def _no_merge(base: BaseFolder, change: Path, instead: Mapping[str, Tensor]) -> Merged:
    return Merged(read_weights(base.path), merge(base, change).changed, "lora")


def _half_merge(base: BaseFolder, change: Path, instead: Mapping[str, Tensor]) -> Merged:
    whole, plain = merge(base, change), read_weights(base.path)
    mixed = {name: tensor if "mlp" in name else plain[name] for name, tensor in whole.tensors.items()}
    return Merged(mixed, whole.changed, "lora")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("fault", [_no_merge, _half_merge])
def test_a_merge_that_did_not_happen(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: ShipFormat,
    fault: Callable[[BaseFolder, Path], Merged],
) -> None:
    monkeypatch.setattr(publish, "merge", fault)
    error = refused(tmp_path, trained, kind)
    assert error.code == "ship.parity_failed"
    if fault is _no_merge:
        assert "change_from_base" in str(error) or "tensors_changed = 0" in str(error)


def test_a_change_of_nothing_fails_even_where_the_limits_are_open(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "merge", _no_merge)
    for kind in FORMATS:
        error = refused(tmp_path, trained, kind, top1_safetensors=0.0, top1_gguf_f16=0.0, top1_gguf_q8_0=0.0)
        assert error.code == "ship.parity_failed"


@pytest.mark.parametrize("kind", GGUF_FORMATS)
def test_a_missing_permutation(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ShipFormat
) -> None:
    monkeypatch.setattr(gguf_format, "to_gguf_order", lambda rows, heads: rows)
    error = refused(tmp_path, trained, kind)
    assert error.code == "ship.parity_failed" and "top1_agreement" in str(error)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_swapped_template(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ShipFormat
) -> None:
    def other(text: str) -> str:
        assert "<|im_start|>' + message['role'] + '\n'" in text
        return text.replace("message['role'] + '\n'", "message['role'] + ': '")

    write_folder, write_file = publish.write_safetensors, publish.write_gguf

    def swapped_folder(
        folder: Path, tensors: Mapping[str, Tensor], base: Path, tokenizer: Path, dtype: torch.dtype
    ) -> None:
        write_folder(folder, tensors, base, tokenizer, dtype)
        template = folder / "chat_template.jinja"
        template.write_text(other(template.read_text()))

    monkeypatch.setattr(publish, "write_safetensors", swapped_folder)
    monkeypatch.setattr(
        publish,
        "write_gguf",
        lambda folder, kind, tensors, base, tokenizer, template, **facts: write_file(
            folder, kind, tensors, base, tokenizer, other(template), **facts
        ),
    )
    error = refused(tmp_path, trained, kind)
    assert error.code == "ship.parity_failed" and "chats_with_other_ids" in str(error)


def test_a_refusal_leaves_the_older_artefact(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first,) = ship(tmp_path, trained, ["gguf-f16"])
    monkeypatch.setattr(gguf_format, "to_gguf_order", lambda rows, heads: rows)
    refused(tmp_path, trained, "gguf-f16")
    verify_folder(first.path)


def test_the_task_metric_is_compared(trained: Trained, tmp_path: Path) -> None:
    questions = [chat[:-1] for chat in trained.chats[:8]]
    said: list[list[str]] = []

    def score(answers: list[str]) -> float:
        said.append(list(answers))
        return 100 * sum(one == other for one, other in zip(answers, said[0], strict=True)) / len(answers)

    def metric(answers: list[str]) -> TaskMetric:
        said.clear()
        return TaskMetric("exact_match", questions, answers, score, max_new_tokens=24)  # type: ignore[arg-type]

    with pytest.raises(TunesmithError) as caught:
        ship(tmp_path, trained, ["gguf-f16"], metric(["no such answer"] * 8))
    assert "exact_match_difference = 100" in str(caught.value)
    assert not (tmp_path / "ship" / "gguf-f16").exists()
    # which answers share a batch changes the rounding, and a tiny model has near ties: one or two may differ
    (artifact,) = ship(tmp_path, trained, ["gguf-f16"], metric(said[1]), metric_points=30)
    assert artifact.parity.value("exact_match_evaluated") == 100
    assert artifact.parity.value("exact_match_artefact") >= 70
    limited = {check.name for check in artifact.parity.checks if check.limit is not None}
    assert "exact_match_difference" in limited and "exact_match_difference_near_ties_apart" not in limited
    with pytest.raises(TunesmithError) as caught:
        ship(tmp_path, trained, ["gguf-f16"], metric(["no such answer"] * 8), near_ties_apart=True)
    assert "exact_match_difference_near_ties_apart = 100" in str(caught.value), "answers that it never gave"
    assert artifact.parity.value("other_answers_at_near_ties") <= artifact.parity.value("other_answers") <= 2


def test_too_few_chats_and_chats_without_answers(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(TunesmithError) as caught:
        publish.ship_formats(publish.Shipping(tmp_path, trained.base, trained.adapter, trained.chats[:3]), FORMATS)
    assert caught.value.code == "ship.too_few_chats"
    silent = trained._replace(chats=[[Message("user", "Hello?")]])
    assert refused(tmp_path, silent, "safetensors").code == "ship.no_answers"


def test_a_gap_that_is_no_number_fails() -> None:
    nan = float("nan")
    assert math.isnan(_largest([0.0, nan, 1.0])) and _largest([0.0, 2.0, 1.0]) == 2.0
    for dtype in ("float32", "bfloat16"):
        assert not _gap_check(nan, dtype).ok and not _gap_check(float("inf"), dtype).ok
        assert _gap_check(0.001, dtype).ok


def test_what_stands_beside_artefacts_is_none(trained: Trained, tmp_path: Path) -> None:
    ship(tmp_path, trained, ["safetensors"])
    aside = tmp_path / "ship" / ".aside-1-00000000-x"
    aside.mkdir()
    (aside / "parity.json").write_text("{}")
    limits = ParityLimits(chats=len(trained.chats))
    shipping = publish.Shipping(tmp_path, trained.base, trained.adapter, trained.chats, None, limits)
    assert [each.format for each in publish.check_published(shipping)] == ["safetensors"]


def test_texts_of_the_base_are_copied_as_texts_and_from_nowhere_else(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(trained.base.path, folder, ignore=shutil.ignore_patterns("manifest.json"))
    (tmp_path / "secret").write_text("secret")
    (folder / "LICENSE").symlink_to(tmp_path / "secret")
    (folder / "LICENSE.txt").write_text("x" * (2 << 20))
    (folder / "NOTICE").write_text("own")
    (folder / "added_tokens.json").write_text('{"<|im_end|>": 2}')
    said: list[Event] = []
    base = replace(resolve_base(str(folder)), licence="mit\nbase_model: evil\ntags: [")
    limits = ParityLimits(chats=len(trained.chats))
    shipping = publish.Shipping(tmp_path / "run", base, trained.adapter, trained.chats, None, limits)
    (artifact,) = publish.ship_formats(shipping, ["safetensors"], Events(None, (said.append,)))
    assert not (artifact.path / "LICENSE").exists() and not (artifact.path / "LICENSE.txt").exists()
    assert (artifact.path / "NOTICE").read_text() == "own"
    left_out = [each.values["path"] for each in said if each.values.get("code") == "ship.licence_left_out"]
    assert left_out == [str(folder / "LICENSE"), str(folder / "LICENSE.txt")]
    assert json.loads((artifact.path / "added_tokens.json").read_text()) == {"<|im_end|>": 2}
    head = yaml.safe_load((artifact.path / "README.md").read_text().split("---\n")[1])
    assert head["license"] == base.licence and head["base_model"] == "base"


def test_a_licence_in_a_hubs_cache_is_the_bases_own(tmp_path: Path) -> None:
    folder = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("licence")
    (folder / "LICENSE").symlink_to(Path("../../blobs/1"))
    (folder / "NOTICE").symlink_to(tmp_path)
    assert publish._is_own(folder / "LICENSE") and not publish._is_own(folder / "NOTICE")


@pytest.mark.timeout(300)
def test_the_real_model_in_llama_cpp(smollm2_trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (artifact,) = ship(tmp_path, smollm2_trained, ["gguf-f16"])
    assert artifact.parity.value("top1_agreement") >= 0.995
    monkeypatch.setattr(gguf_format, "to_gguf_order", lambda rows, heads: rows)
    assert "top1_agreement" in str(refused(tmp_path, smollm2_trained, "gguf-f16"))
