"""Learned beginnings are published beside their base, read by PEFT as by us, and never merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tunesmith.adapt.attach import attach
from tunesmith.adapt.published import load_published
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import verify_folder
from tunesmith.core.types import Message
from tunesmith.models.beginning import places_before
from tunesmith.models.generate import generate
from tunesmith.models.load import BaseFolder, load_model
from tunesmith.models.policy import Policy
from tunesmith.models.sampling import GenerateSettings
from tunesmith.recipe.specs.beginnings import BeginningSpec, PrefixSpec, PromptSpec, PTuningSpec
from tunesmith.recipe.specs.ship import ParityLimits
from tunesmith.ship import publish
from tunesmith.ship.evaluated import Reader, Turn, load_evaluated
from tunesmith.ship.merge import merge

SPECS = {
    "prompt": PromptSpec(num_virtual_tokens=6),
    "p-tuning": PTuningSpec(num_virtual_tokens=6),
    "prefix": PrefixSpec(num_virtual_tokens=6),
    "prefix with projection": PrefixSpec(num_virtual_tokens=6, prefix_projection=True),
}


class Trained(NamedTuple):
    """As in conftest.py."""

    base: BaseFolder
    adapter: Path
    chats: list[list[Message]]


def saved(base: BaseFolder, spec: BeginningSpec, folder: Path) -> Policy:
    """A beginning that has moved from where it began, in memory and in a folder."""
    policy = Policy(load_model(base.path, dtype=torch.float32).model)
    attached = attach(policy, spec, seed=1, base_name=base.name)
    torch.manual_seed(4)
    attached.load({name: each + 0.2 * torch.randn_like(each) for name, each in attached.delta().items()})
    folder.mkdir()
    attached.save(folder, attached.delta())
    return policy


@pytest.mark.parametrize("kind", SPECS)
def test_it_is_published_as_peft_has_it_and_answers_as_it_was_trained(
    trained: Trained, tmp_path: Path, kind: str
) -> None:
    policy = saved(trained.base, SPECS[kind], tmp_path / "change")
    limits = ParityLimits(chats=len(trained.chats))
    shipping = publish.Shipping(tmp_path / "run", trained.base, tmp_path / "change", trained.chats, None, limits)
    (artifact,) = publish.ship_formats(shipping, ["adapter"])
    assert verify_folder(artifact.path)["adaptation"] == kind.split()[0]
    assert artifact.parity.ok and artifact.parity.judge.startswith("PEFT")
    assert artifact.parity.value("top1_agreement") == 1 and artifact.parity.value("change_from_base") > 0.01
    assert publish.check_published(shipping)[0].ok
    loaded, _ = load_published(artifact.path, base=str(trained.base.path), dtype=torch.float32)
    assert places_before(loaded.model) == 6
    prompts = [[1, 40, 50, 60], [1, 7, 9]]
    with policy.answering() as model:
        wanted = generate(model, loaded.tokenizer, prompts, GenerateSettings(max_new_tokens=10))
    found = generate(loaded.model, loaded.tokenizer, prompts, GenerateSettings(max_new_tokens=10))
    assert [each.token_ids for each in found] == [each.token_ids for each in wanted]
    with pytest.raises(TunesmithError, match=r"ship\.stands_beside"):
        publish.ship_formats(shipping, ["safetensors"])
    with pytest.raises(TunesmithError, match=r"ship\.stands_beside"):
        merge(trained.base, tmp_path / "change")


def test_turns_are_read_behind_the_beginning_whatever_they_share(trained: Trained, tmp_path: Path) -> None:
    saved(trained.base, SPECS["prefix"], tmp_path / "change")
    turns = [Turn((1, 5, 9, 40), (50, 51, 52)), Turn((1, 5, 8), (60, 61))]
    found = []
    for chosen in (turns, turns[:1], [*turns, Turn((2, 3), (4,))]):
        reader = Reader(load_evaluated(trained.base, tmp_path / "change"), chosen)
        found.append([reader.logits(turns[0]), reader.logits(turns[0])])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[0], found[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_virtual_tokens", 7), ("num_virtual_tokens", True), ("num_layers", 3), ("token_dim", 4),
        ("num_attention_heads", 1), ("num_transformer_submodules", 2), ("modules_to_save", ["lm_head"]),
        ("token_dim", None), ("num_virtual_tokens", 10**9),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused(trained: Trained, tmp_path: Path, key: str, value: object) -> None:
    saved(trained.base, SPECS["prefix"], tmp_path / "change")
    config = json.loads((tmp_path / "change" / "adapter_config.json").read_text())
    (tmp_path / "change" / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(TunesmithError) as error:
        load_evaluated(trained.base, tmp_path / "change")
    assert error.value.code in ("ship.adapter_setting", "ship.adapter_keys")


def test_other_tensors_are_refused(trained: Trained, tmp_path: Path) -> None:
    saved(trained.base, SPECS["prompt"], tmp_path / "change")
    whole = load_file(tmp_path / "change" / "adapter_model.safetensors")["prompt_embeddings"]
    broken = {
        "missing": {"embeddings": whole},
        "more": {"prompt_embeddings": whole, "lm_head.weight": whole.clone()},
        "short": {"prompt_embeddings": whole[:-1].contiguous()},
        "no numbers": {"prompt_embeddings": whole * float("nan")},
    }
    for name, tensors in broken.items():
        folder = tmp_path / name
        shutil.copytree(tmp_path / "change", folder)
        save_file(tensors, folder / "adapter_model.safetensors")
        with pytest.raises(TunesmithError) as error:
            load_evaluated(trained.base, folder)
        assert error.value.code == ("ship.not_finite" if name == "no numbers" else "ship.adapter_keys")
