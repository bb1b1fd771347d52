"""E3: an adapter fits its base to the last tensor and changes what the model says, or it is refused by a code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faults_tally import Tally
from safetensors.torch import load_file, save_file
from torch import Tensor

from tunesmith.adapt.attach import attach
from tunesmith.adapt.saved import put_beside
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import MANIFEST, new_folder
from tunesmith.models.load import BaseFolder, load_model, resolve_base
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model, tiny_moe_model
from tunesmith.recipe.specs.adapt import BottleneckSpec, ExpertsSpec, FullSpec, LoraExpertsSpec, LoraSpec
from tunesmith.ship.adapter_judge import judged
from tunesmith.ship.evaluated import load_evaluated
from tunesmith.ship.merge import merge, merge_into

pytestmark = pytest.mark.case("E3")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEYS = "ship.adapter_keys"


@dataclass(frozen=True)
class Made:
    base: BaseFolder
    adapter: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A base and an adapter of it, without a manifest: what somebody else may send."""
    folder = tmp_path_factory.mktemp("adapters")
    base = resolve_base(str(tiny_chat_model(folder / "base")))
    policy = Policy(load_model(base.path, dtype=torch.float32).model)
    attached = attach(policy, LoraSpec(kind="lora", rank=4), seed=1, base_name=base.name)
    (folder / "adapter").mkdir()
    torch.manual_seed(3)
    attached.save(folder / "adapter", {name: torch.randn_like(each) / 4 for name, each in attached.delta().items()})
    return Made(base, folder / "adapter")


Edit = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def renamed(old: str, new: str) -> Edit:
    return lambda tensors: {name.replace(old, new): each for name, each in tensors.items()}


def without(part: str) -> Edit:
    return lambda tensors: {name: each for name, each in tensors.items() if part not in name}


def of_rank(rank: int) -> Edit:
    def edit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: each[:rank].clone() if ".lora_A." in name else each[:, :rank].clone()
            for name, each in tensors.items()
        }

    return edit


def first(change: Callable[[Tensor], Tensor], part: str = "lora_B") -> Edit:
    def edit(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(each for each in sorted(tensors) if part in each)
        return {**tensors, name: change(tensors[name]).contiguous()}

    return edit


TENSORS: dict[str, tuple[Edit, str]] = {
    "no prefix": (renamed("base_model.model.", ""), KEYS),
    "half a prefix": (renamed("base_model.model.", "base_model."), KEYS),
    "a doubled prefix": (renamed("base_model.model.", "base_model.model.base_model.model."), KEYS),
    "the name of another wrapper": (renamed("base_model.model.model.", "base_model.model.transformer."), KEYS),
    "the adapter's name kept": (renamed(".lora_A.weight", ".lora_A.default.weight"), KEYS),
    "a module called weight": (renamed("q_proj", "q_weight"), KEYS),
    "A without B": (without("layers.0.self_attn.q_proj.lora_B"), KEYS),
    "B without A": (without("layers.1.mlp.up_proj.lora_A"), KEYS),
    "a layer left out": (without("layers.1.mlp.up_proj"), KEYS),
    "all layers left out": (without("lora"), KEYS),
    "one tensor more": (lambda tensors: {**tensors, "stray": torch.ones(2)}, KEYS),
    "a layer that the base has not": (
        lambda tensors: {
            **tensors,
            **{
                name.replace("layers.1.", "layers.7."): each.clone()
                for name, each in tensors.items()
                if "layers.1." in name
            },
        },
        KEYS,
    ),
    "a lower rank than stated": (of_rank(2), KEYS),
    "one layer of another rank": (first(lambda each: each[:, :2]), KEYS),
    "a wider layer": (first(lambda each: torch.cat([each, each])), KEYS),
    "turned round": (first(lambda each: each.T), KEYS),
    "one dimension": (first(lambda each: each.flatten()), KEYS),
    "all zero": (lambda tensors: {name: torch.zeros_like(each) for name, each in tensors.items()}, "ship.no_change"),
    "B all zero": (
        lambda tensors: {name: torch.zeros_like(each) if "lora_B" in name else each for name, each in tensors.items()},
        "ship.no_change",
    ),
    "not a number": (first(lambda each: torch.full_like(each, float("nan"))), "ship.not_finite"),
    "infinite": (first(lambda each: torch.full_like(each, float("inf")), "lora_A"), "ship.not_finite"),
}
SETTINGS: dict[str, tuple[dict[str, object], str]] = {
    "another rank": ({"r": 8}, KEYS),
    "no rank": ({"r": 0}, "ship.adapter_setting"),
    "rank as text": ({"r": "4"}, "ship.adapter_setting"),
    "a rank of 10^9": ({"r": 10**9}, "ship.adapter_setting"),
    "alpha that is no number": ({"lora_alpha": float("nan")}, "ship.adapter_setting"),
    "alpha of 10^400": ({"lora_alpha": 10**400}, "ship.adapter_setting"),
    "alpha as a table": ({"lora_alpha": {}}, "ship.adapter_setting"),
    "alpha of zero": ({"lora_alpha": 0}, "ship.adapter_setting"),
    "rslora as text": ({"use_rslora": "yes"}, "ship.adapter_setting"),
    "targets as a number": ({"target_modules": 3}, "ship.adapter_setting"),
    "targets left out": ({"target_modules": ["q_proj"]}, KEYS),
    "targets that the base has not": ({"target_modules": ["query"]}, KEYS),
    "an expression that never ends": ({"target_modules": "(.*)*(.*)*(.*)*(.*)*!"}, ""),
    "another base by name": ({"base_model_name_or_path": "somebody/else"}, "ship.other_base"),
    "another kind": ({"peft_type": "IA3"}, "ship.unmergeable"),
    "DoRA without its lengths": ({"use_dora": True}, "ship.adapter_keys"),
    "biases": ({"bias": "all"}, "ship.unmergeable"),
    "whole modules": ({"modules_to_save": ["embed_tokens"]}, "ship.unmergeable"),
    "ranks by layer": ({"rank_pattern": {"q_proj": 2}}, "ship.unmergeable"),
    "a base changed before": ({"init_lora_weights": "pissa"}, "ship.unmergeable"),
    "something new": ({"use_tomorrows_method": True}, "ship.unmergeable"),
}
"""Settings and their answer; none for one that is not needed: the tensors say what an expression would."""


def answer(made: Made, folder: Path, tally: Tally) -> str:
    """The code with which both ways in refuse a folder: merging, and loading for the yardstick of parity."""
    tally.count("adapters tried")
    with pytest.raises(TunesmithError) as caught:
        merge(made.base, folder)
    if caught.value.code in (KEYS, "ship.adapter_setting", "ship.unmergeable"):
        with pytest.raises(TunesmithError) as again:
            load_evaluated(made.base, folder)
        assert again.value.code == caught.value.code
    return caught.value.code


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(made: Made, tmp_path: Path, tally: Tally, name: str) -> None:
    edit, expected = TENSORS[name]
    folder = Path(shutil.copytree(made.adapter, tmp_path / "adapter"))
    save_file(edit(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    assert answer(made, folder, tally) == expected


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(made: Made, tmp_path: Path, tally: Tally, name: str) -> None:
    values, expected = SETTINGS[name]
    folder = Path(shutil.copytree(made.adapter, tmp_path / "adapter"))
    (folder / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **values}))
    if expected:
        assert answer(made, folder, tally) == expected
    else:
        tally.count("adapters tried")
        assert merge(made.base, folder).changed == merge(made.base, made.adapter).changed


def test_another_base(made: Made, tmp_path: Path, tally: Tally) -> None:
    """By hash where the folder has a manifest, by shape and by name where it has none."""
    others = {
        "other weights": tiny_chat_model(tmp_path / "seed", seed=5),
        "narrower": tiny_chat_model(tmp_path / "narrow", hidden=32),
        "fewer layers": tiny_chat_model(tmp_path / "short", layers=1),
    }
    with new_folder(tmp_path / "signed", base_sha256=made.base.sha256) as aside:
        shutil.copytree(made.adapter, aside, dirs_exist_ok=True)
    nameless = Path(shutil.copytree(made.adapter, tmp_path / "nameless"))
    config = json.loads((nameless / CONFIG).read_text())
    (nameless / CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": None}))
    for name, other in others.items():
        base = resolve_base(str(other))
        for folder in (tmp_path / "signed", made.adapter, nameless):
            if folder == nameless and name == "other weights":
                continue  # nothing tells them apart, and nothing says what it was trained on
            tally.count("adapters tried")
            with pytest.raises(TunesmithError) as caught:
                merge(base, folder)
            assert caught.value.code == (KEYS if folder == nameless else "ship.other_base")


def test_a_good_one_changes_what_the_model_says(made: Made, tally: Tally) -> None:
    ids = torch.tensor([[1, 40, 50, 60, 70, 80]])
    loaded = load_model(made.base.path, dtype=torch.float32)
    with torch.inference_mode():
        before = loaded.model(ids).logits
        merged = merge_into(loaded, made.base, made.adapter).model(ids).logits
        beside = load_evaluated(made.base, made.adapter)(ids).logits
    tally.count("adapters tried")
    assert not torch.allclose(before, merged, atol=1e-4)
    assert torch.allclose(beside, merged, atol=1e-5)


def flat(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first matrix as a vector."""
    name = next(each for each in sorted(tensors) if tensors[each].ndim > 1)
    return {**tensors, name: tensors[name].flatten()}


OWN = {
    "bottleneck": (BottleneckSpec(size=4, places="houlsby"), "bottleneck_model.safetensors"),
    "experts": (ExpertsSpec(experts=[1, 2], router=True), "experts_model.safetensors"),
    "lora-experts": (LoraExpertsSpec(new_experts=2, rank=2), "lora_experts_model.safetensors"),
}
"""Kinds that are saved in forms of our own."""
OWN_FAULTS: dict[str, tuple[Edit, str]] = {
    "one tensor less": (lambda tensors: dict(list(sorted(tensors.items()))[1:]), KEYS),
    "one tensor more": (lambda tensors: {**tensors, "stray": torch.ones(2)}, KEYS),
    "another block": (renamed("layers.1.", "layers.9."), KEYS),
    "a prefix": (lambda tensors: {f"model.{name}": each for name, each in tensors.items()}, KEYS),
    "another shape": (first(lambda each: each[:-1], ""), KEYS),
    "one dimension": (flat, KEYS),
    "not a number": (first(lambda each: torch.full_like(each, float("nan")), ""), "ship.not_finite"),
}


@pytest.mark.parametrize("kind", OWN)
def test_forms_of_our_own(tmp_path: Path, tally: Tally, kind: str) -> None:
    """The same of kinds that PEFT does not know: put on their base to the last tensor, or refused by a code."""
    spec, file = OWN[kind]
    made_base = tiny_moe_model(tmp_path / "base") if kind == "experts" else tiny_chat_model(tmp_path / "base")
    base = resolve_base(str(made_base))
    attached = attach(Policy(load_model(base.path, dtype=torch.float32).model), spec, seed=1, base_name=base.name)
    folder = tmp_path / "change"
    folder.mkdir()
    torch.manual_seed(3)
    attached.save(folder, {name: torch.randn_like(each) / 4 for name, each in attached.delta().items()})
    good, ids = load_file(folder / file), torch.tensor([[1, 40, 50, 60, 70, 80]])
    with torch.inference_mode():
        before = load_model(base.path, dtype=torch.float32).model(ids).logits
        beside, other = (each(input_ids=ids).logits for each in (load_evaluated(base, folder), judged(base, folder)))
    tally.count("adapters tried")
    assert not torch.allclose(before, beside, atol=1e-4) and torch.allclose(beside, other, atol=1e-4)
    for name, (edit, code) in OWN_FAULTS.items():
        save_file({each: tensor.contiguous() for each, tensor in edit(good).items()}, folder / file)
        tally.count("adapters tried")
        with pytest.raises(TunesmithError) as caught:
            load_evaluated(base, folder)
        assert caught.value.code == code, name
    save_file(good, folder / file)
    other_base = resolve_base(str(tiny_chat_model(tmp_path / "other", layers=1)))
    with pytest.raises(TunesmithError) as caught:
        put_beside(load_model(other_base.path, dtype=torch.float32), other_base, folder)
    assert caught.value.code == "ship.other_base"


FULL: dict[str, tuple[Edit, str]] = {
    "a tensor left out": (without("model.norm"), KEYS),
    "one tensor more": (lambda tensors: {**tensors, "stray": torch.ones(2)}, KEYS),
    "another prefix": (renamed("model.", "transformer."), KEYS),
    "another shape": (first(lambda each: each[:-1], "embed_tokens"), KEYS),
    "nothing changed": (dict, "ship.no_change"),
    "not a number": (first(lambda each: torch.full_like(each, float("nan")), "norm"), "ship.not_finite"),
}


@pytest.mark.parametrize("name", FULL)
def test_whole_weights(made: Made, tmp_path: Path, tally: Tally, name: str) -> None:
    """The same for the weights of a full fine-tune."""
    edit, expected = FULL[name]
    policy = Policy(load_model(made.base.path, dtype=torch.float32).model)
    attached = attach(policy, FullSpec(kind="full"), seed=1, base_name=made.base.name)
    attached.save(tmp_path, attached.delta())
    save_file(edit(load_file(tmp_path / "model.safetensors")), tmp_path / "model.safetensors")
    assert not (tmp_path / MANIFEST).exists()
    assert answer(made, tmp_path, tally) == expected
