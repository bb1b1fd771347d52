"""Checkpoints: which are kept, what a full disk or a kill leaves, and that damage is never loaded or forgotten."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.core import files
from tunesmith.core.conditions import Conditions
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import ASIDE, verify_folder
from tunesmith.core.writers import this_process
from tunesmith.train import checkpoint
from tunesmith.train.checkpoint import Checkpoints, Snapshot, checkpoint_paths


def save_weights(folder: Path, masters: Mapping[str, Tensor]) -> None:
    save_file({name: each.contiguous() for name, each in masters.items()}, folder / "adapter_model.safetensors")


def save_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def checkpoints(
    folder: Path,
    keep: int = 2,
    key: str = "key",
    machine: Mapping[str, str] | None = None,
    seen: list[Event] | None = None,
    accept_machine: bool = False,
) -> Checkpoints:
    listeners = (seen.append,) if seen is not None else ()
    conditions, events = Conditions({"key": key}, machine or {}), Events(None, listeners)
    return Checkpoints(folder, keep, conditions, "base", save_weights, save_tokenizer, events, accept_machine)


def snapshot(step: int) -> Snapshot:
    tensor = torch.full((4, 3), float(step))
    return Snapshot(
        step, {"a": tensor.t()}, {"a/exp_avg": tensor * 2, "a/step": torch.tensor(float(step))}, {"x": {"y": step}}
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(folder: Path, step: int) -> None:
    path = folder / f"checkpoint-{step}" / "masters.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_what_comes_back(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    assert store.newest() is None
    path = store.save(snapshot(3))
    assert names(path) == [
        "adapter_model.safetensors",
        "manifest.json",
        "masters.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
    ]
    verify_folder(path)
    found = store.newest()
    assert found is not None and found.step == 3 and found.facts["x"] == {"y": 3}
    assert torch.equal(found.masters["a"], snapshot(3).masters["a"])
    assert torch.equal(found.optimizer["a/step"], torch.tensor(3.0))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_by_number_and_the_best_besides(tmp_path: Path, keep: int) -> None:
    store = checkpoints(tmp_path, keep)
    store.save_best(snapshot(2).masters, 2, 0.5)
    for step in (2, 9, 10, 100):
        store.save(snapshot(step))
    assert [path.name for path in checkpoint_paths(tmp_path)] == [f"checkpoint-{n}" for n in (2, 9, 10, 100)[-keep:]]
    assert "best" in names(tmp_path) and verify_folder(tmp_path / "best")["step"] == 2
    assert all(verify_folder(path)["base_sha256"] == "base" for path in tmp_path.iterdir())
    found = store.newest()
    assert found is not None and found.step == 100


def test_names_that_are_no_checkpoints_are_left_alone(tmp_path: Path) -> None:
    for name in ("checkpoint-", "checkpoint-x", "checkpoint-1-old", "mine"):
        (tmp_path / name).mkdir()
    store = checkpoints(tmp_path, keep=1)
    for step in (1, 2):
        store.save(snapshot(step))
    assert names(tmp_path) == ["checkpoint-", "checkpoint-1-old", "checkpoint-2", "checkpoint-x", "mine"]


# ------------------------------------------------------------------------------------------- a full disk


def refuse_fsync(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse_save(*_: object, **__: object) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("where", ["fsync", "tensors"])
def test_a_full_disk_keeps_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    store = checkpoints(tmp_path, keep=1)
    store.save(snapshot(1))
    store.save_best(snapshot(1).masters, 1, 0.5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        if where == "fsync":
            patch.setattr(os, "fsync", refuse_fsync)
        else:
            patch.setattr(checkpoint, "save_file", refuse_save)
        with pytest.raises(TunesmithError) as error:
            store.save(snapshot(2))
        assert error.value.code == "core.disk_full" and int(error.value.facts["free_mb"]) >= 0
        if where == "fsync":
            with pytest.raises(TunesmithError, match="disk_full"):
                store.save_best(snapshot(2).masters, 2, 0.4)
            with pytest.raises(TunesmithError, match="disk_full"):
                store.save(snapshot(1))  # the same step again, as a signal at a saved step does
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    found = store.newest()
    assert found is not None and found.step == 1
    assert store.save(snapshot(2)).is_dir(), "with space again it goes on"


def test_opening_a_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = checkpoints(tmp_path)
    store.save(snapshot(1))
    write = Path.write_text

    def refuse(self: Path, *arguments: object, **names_: object) -> int:
        if self.name == "state.json":
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, *arguments, **names_)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        with pytest.raises(TunesmithError, match="disk_full"):
            store.save(snapshot(2))
    assert names(tmp_path) == ["checkpoint-1"]


# ------------------------------------------------------------------------------------- kills and damages


def test_a_kill_while_the_same_step_is_saved_again(tmp_path: Path) -> None:
    """The older folder was moved aside, the newer not yet in place: nothing else is there to continue from."""
    store = checkpoints(tmp_path, keep=1)
    store.save(snapshot(5))
    (tmp_path / "checkpoint-5").rename(
        tmp_path / f"{ASIDE}{this_process().split('-')[0]}-4194304999-17-older-checkpoint-5"
    )
    found = store.newest()
    assert found is not None and found.step == 5 and names(tmp_path) == ["checkpoint-5"]


def test_a_kill_while_an_old_one_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = checkpoints(tmp_path, keep=1)
    store.save(snapshot(1))
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda path, **_: (path / "masters.safetensors").unlink(missing_ok=True))
        store.save(snapshot(2))
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["checkpoint-2"], "never seen half gone"
    for path in checkpoint_paths(tmp_path):
        verify_folder(path)


def test_damaged_ones_are_named_passed_over_and_do_not_push_whole_ones_out(tmp_path: Path) -> None:
    seen: list[Event] = []
    store = checkpoints(tmp_path, keep=3, seen=seen)
    for step in (10, 20, 30):
        store.save(snapshot(step))
    damage(tmp_path, 20)
    damage(tmp_path, 30)
    store = checkpoints(tmp_path, keep=1, seen=seen)
    found = store.newest()
    assert found is not None and found.step == 10
    assert [(event.kind, event.values["checkpoint"]) for event in seen] == [
        ("alarm", "checkpoint-30"),
        ("alarm", "checkpoint-20"),
    ]
    store.save(snapshot(15))
    found = store.newest()
    assert found is not None and found.step == 15, "a whole one is still there after the next rotation"


def test_one_that_the_disk_does_not_give_back_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = checkpoints(tmp_path)
    for step in (1, 2):
        store.save(snapshot(step))
    hashed = files.sha256_file

    def refuse(path: Path) -> str:
        if path.parent.name == "checkpoint-2":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return hashed(path)

    monkeypatch.setattr(files, "sha256_file", refuse)
    found = store.newest()
    assert found is not None and found.step == 1


def test_all_damaged_is_said_and_nothing_is_removed(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    for step in (1, 2):
        store.save(snapshot(step))
    damage(tmp_path, 1)
    (tmp_path / "checkpoint-2" / "manifest.json").unlink()
    with pytest.raises(TunesmithError) as error:
        store.newest()
    assert error.value.code == "train.no_valid_checkpoint"
    assert "checkpoint-1" in str(error.value.facts["damaged"]) and "checkpoint-2" in str(error.value.facts["damaged"])
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_a_whole_checkpoint_of_another_recipe_is_refused_and_kept(tmp_path: Path) -> None:
    checkpoints(tmp_path).save(snapshot(1))
    with pytest.raises(TunesmithError) as error:
        checkpoints(tmp_path, key="other").newest()
    assert error.value.code == "train.resume_differs"
    assert error.value.facts["differences"] == "key: key -> other"
    assert (tmp_path / "checkpoint-1" / "state.json").is_file()


def test_another_machine_is_refused_or_accepted_and_said(tmp_path: Path) -> None:
    seen: list[Event] = []
    checkpoints(tmp_path, machine={"torch": "1", "threads": "2"}).save(snapshot(1))
    now = {"torch": "2", "threads": "2"}
    with pytest.raises(TunesmithError) as error:
        checkpoints(tmp_path, machine=now).newest()
    assert (error.value.code, error.value.facts["differences"]) == ("train.machine_differs", "torch: 1 -> 2")
    found = checkpoints(tmp_path, machine=now, seen=seen, accept_machine=True).newest()
    assert found is not None and found.step == 1
    assert [event.values["differences"] for event in seen] == ["torch: 1 -> 2"]


def test_an_added_file_is_damage_too(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    store.save(snapshot(1))
    shutil.copyfile(tmp_path / "checkpoint-1" / "state.json", tmp_path / "checkpoint-1" / "evil.pkl")
    with pytest.raises(TunesmithError, match="no_valid_checkpoint"):
        store.newest()
