"""F4: safetensors files whose header lies are refused by our own check, soon and in little memory."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from faults_safetensors import CRAFTED, mutated
from faults_tally import Tally
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST
from tunesmith.models.load import load_model
from tunesmith.models.safetensors_header import read_header
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.models.weights import read_tensors, read_weights

pytestmark = pytest.mark.case("F4")

SECONDS, BYTES = 1.0, 100 << 20


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file(tmp_path: Path, tally: Tally, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(CRAFTED[name])
    tally.count("crafted files")
    started = time.process_time()
    with pytest.raises(TunesmithError) as caught:
        read_tensors(path)
    assert time.process_time() - started < SECONDS
    tracemalloc.start()
    try:
        with pytest.raises(TunesmithError):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
    assert caught.value.code == "models.broken_weights" and caught.value.facts["reason"]
    assert len(str(caught.value.facts["reason"])) < 500


def test_a_mutated_file_is_refused_or_reads_as_the_library_reads_it(tmp_path: Path, tally: Tally) -> None:
    path = tmp_path / "good.safetensors"
    tensors = {f"layer.{place}.weight": torch.arange(place + 4.0).reshape(2, -1) for place in (0, 2, 4)}
    save_file({**tensors, "half": torch.ones(3, dtype=torch.float16)}, path, metadata={"format": "pt"})
    good, tried = path.read_bytes(), tmp_path / "mutated.safetensors"
    slowest = 0.0
    for _ in range(tally.amount(200, 20_000)):
        tried.write_bytes(mutated(tally.random, good))
        tally.count("files mutated")
        started = time.process_time()
        try:
            found = read_tensors(tried)
        except TunesmithError as error:
            assert error.code == "models.broken_weights"
            tally.count("mutated files refused")
            continue
        finally:
            slowest = max(slowest, time.process_time() - started)
        assert {name: each.shape for name, each in found.items()} == {
            name: each.shape for name, each in load_file(tried).items()
        }
    assert slowest < SECONDS
    assert tally.counts["mutated files refused"] > 0.8 * tally.counts["files mutated"]


def test_our_check_comes_before_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    """A file that our check refuses never reaches the library's parser, on any way in."""
    folder = tiny_chat_model(tmp_path / "model", layers=1)
    (folder / MANIFEST).unlink()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")

    def reached(*arguments: object, **named: object) -> object:
        raise AssertionError("the library was asked")

    monkeypatch.setattr("tunesmith.models.weights.safe_open", reached)
    monkeypatch.setattr("transformers.modeling_utils.safe_open", reached)
    for way in (
        lambda: load_model(folder, dtype=torch.float32),
        lambda: read_weights(folder),
        lambda: read_tensors(weights),
    ):
        tally.count("ways in")
        with pytest.raises(TunesmithError) as caught:
            way()
        assert caught.value.code == "models.broken_weights"


def test_good_files_pass(tmp_path: Path, tally: Tally) -> None:
    for place, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)):
        path = tmp_path / f"{place}.safetensors"
        save_file(
            {"a": torch.ones(3, 4).to(dtype), "empty": torch.zeros(0, 7).to(dtype), "one": torch.ones(()).to(dtype)},
            path,
        )
        tally.count("good files")
        assert set(read_header(path)) == set(read_tensors(path)) == {"a", "empty", "one"}


def test_shards_are_joined_and_missing_ones_missed(tmp_path: Path, tally: Tally) -> None:
    folder = tiny_chat_model(tmp_path / "model", layers=1)
    (folder / MANIFEST).unlink()
    whole = read_weights(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    halves = {name: whole[name] for name in names[::2]}, {name: whole[name] for name in names[1::2]}
    for number, half in enumerate(halves, start=1):
        save_file(half, folder / f"model-{number:05d}-of-00002.safetensors", metadata={"format": "pt"})
    loaded = load_model(folder, dtype=torch.float32).model.state_dict()
    assert all(torch.equal(loaded[name], each) for name, each in whole.items())
    save_file({names[0]: whole[names[0]]} | halves[1], folder / "model-00002-of-00002.safetensors")
    for expected in ("models.broken_weights", "models.not_a_model_folder"):
        with pytest.raises(TunesmithError) as caught:
            load_model(folder, dtype=torch.float32)
        assert caught.value.code == expected
        tally.count("crafted files")
        (folder / "model-00002-of-00002.safetensors").unlink(missing_ok=True)
