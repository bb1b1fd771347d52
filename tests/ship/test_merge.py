"""Merging: exact against PEFT, and every way in which an adapter is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import new_folder
from tunesmith.models.load import BaseFolder, load_model, resolve_base
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.models.weights import read_weights
from tunesmith.ship.evaluated import load_evaluated
from tunesmith.ship.merge import merge


class Trained(NamedTuple):
    """As in conftest.py."""

    base: BaseFolder
    adapter: Path
    chats: list[list[object]]


@pytest.fixture
def adapter(trained: Trained, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.adapter, tmp_path / "adapter"))


def refused(base: BaseFolder, change: Path) -> str:
    with pytest.raises(TunesmithError) as caught:
        merge(base, change)
    return caught.value.code


def change_tensors(folder: Path, edit: object) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    assert callable(edit)
    edit(tensors)
    save_file(tensors, path)


def test_merged_weights_are_those_of_peft(trained: Trained) -> None:
    merged = merge(trained.base, trained.adapter)
    reference = load_evaluated(trained.base, trained.adapter)
    count = 0
    for name, module in reference.named_modules():
        if hasattr(module, "get_delta_weight"):
            expected = module.base_layer.weight + module.get_delta_weight("saved")
            assert torch.allclose(merged.tensors[f"{name}.weight"], expected, atol=1e-6)
            count += 1
    assert count == len(merged.changed) == 14


def test_scale_of_rank_stabilised_lora(trained: Trained, adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_rslora": True}))
    plain, stabilised = merge(trained.base, trained.adapter), merge(trained.base, adapter)
    name = plain.changed[0]
    base = read_weights(trained.base.path)[name]
    ratio = (stabilised.tensors[name] - base).norm() / (plain.tensors[name] - base).norm()
    assert ratio.item() == pytest.approx(8**0.5, rel=1e-3)


def test_a_missing_and_an_extra_tensor(trained: Trained, adapter: Path) -> None:
    change_tensors(adapter, lambda tensors: tensors.pop(sorted(tensors)[0]))
    assert refused(trained.base, adapter) == "ship.adapter_keys"
    shutil.copy(trained.adapter / "adapter_model.safetensors", adapter)
    change_tensors(adapter, lambda tensors: tensors.update(stray=torch.ones(2)))
    assert refused(trained.base, adapter) == "ship.adapter_keys"


def test_a_tensor_of_another_shape(trained: Trained, adapter: Path) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: value[:, :4].clone() for name, value in tensors.items() if "lora_B" in name})

    change_tensors(adapter, narrow)
    assert refused(trained.base, adapter) == "ship.adapter_keys"


def test_an_adapter_that_changes_nothing(trained: Trained, adapter: Path) -> None:
    change_tensors(adapter, lambda t: t.update({n: torch.zeros_like(v) for n, v in t.items() if "lora_B" in n}))
    assert refused(trained.base, adapter) == "ship.no_change"


def test_what_cannot_be_merged(trained: Trained, adapter: Path) -> None:
    path = adapter / "adapter_config.json"
    plain = json.loads(path.read_text())
    for odd in (
        {"use_qalora": True},
        {"bias": "all"},
        {"peft_type": "IA3"},
        {"modules_to_save": ["lm_head"]},
    ):
        path.write_text(json.dumps({**plain, **odd}))
        assert refused(trained.base, adapter) == "ship.unmergeable"


def test_another_base_is_refused(trained: Trained, adapter: Path, tmp_path: Path) -> None:
    other = resolve_base(str(tiny_chat_model(tmp_path / "other", heads=2, seed=5)))
    with new_folder(tmp_path / "signed", base_sha256=trained.base.sha256) as aside:
        shutil.copytree(adapter, aside, dirs_exist_ok=True)
    assert merge(trained.base, tmp_path / "signed").changed
    assert refused(other, tmp_path / "signed") == "ship.other_base"
    assert refused(other, adapter) == "ship.other_base"  # by the name in its own config


def test_a_full_fine_tune(trained: Trained, tmp_path: Path) -> None:
    model = load_model(trained.base.path, dtype=torch.float32).model
    tensors = {name: value.detach().clone() for name, value in model.named_parameters()}
    (tmp_path / "full").mkdir()
    save_file(tensors, tmp_path / "full" / "model.safetensors")
    assert refused(trained.base, tmp_path / "full") == "ship.no_change"
    tensors["model.norm.weight"] += 0.5
    save_file(tensors, tmp_path / "full" / "model.safetensors")
    assert merge(trained.base, tmp_path / "full").changed == ("model.norm.weight",)
    reference = load_evaluated(trained.base, tmp_path / "full")
    assert torch.equal(reference.get_decoder().norm.weight, tensors["model.norm.weight"])
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "full" / "model.safetensors")
    assert refused(trained.base, tmp_path / "full") == "ship.adapter_keys"


def test_a_folder_without_any_change(trained: Trained, tmp_path: Path) -> None:
    assert refused(trained.base, tmp_path) == "ship.missing_change"
