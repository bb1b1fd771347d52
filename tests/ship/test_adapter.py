"""The change as a folder of its own: read by others as by us, held to its base, and served beside it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tunesmith.adapt.attach import attach
from tunesmith.adapt.published import load_published
from tunesmith.adapt.saved import kind_of
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_manifest, sha256_file, verify_folder
from tunesmith.core.types import Message
from tunesmith.models.load import BaseFolder, load_model
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.adapt import SubsetSpec
from tunesmith.recipe.specs.ship import ParityLimits
from tunesmith.ship import publish
from tunesmith.ship.evaluated import load_evaluated
from tunesmith.ship.merge import merge_into

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 33]])


class Trained(NamedTuple):
    """As in conftest.py."""

    base: BaseFolder
    adapter: Path
    chats: list[list[Message]]


def shipping(run: Path, trained: Trained, change: Path | None = None) -> publish.Shipping:
    limits = ParityLimits(chats=len(trained.chats))
    return publish.Shipping(run, trained.base, change or trained.adapter, trained.chats, None, limits)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


@pytest.fixture(scope="module")
def published(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> publish.Artifact:
    run = tmp_path_factory.mktemp("runs") / "demo" / "20260101-000000"
    (artifact,) = publish.ship_formats(shipping(run, trained), ["adapter"])
    return artifact


def test_a_lora_is_published_as_peft_has_it(published: publish.Artifact, trained: Trained) -> None:
    folder = published.path
    manifest = verify_folder(folder)
    assert manifest["artefact_format"] == "adapter" and manifest["base_sha256"] == trained.base.sha256
    weights = "adapter_model.safetensors"
    assert sha256_file(folder / weights) == sha256_file(trained.adapter / weights) == published.weights_sha256
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == trained.base.name and config["peft_type"] == "LORA"
    assert published.parity.ok and published.parity.judge.startswith("PEFT")
    assert published.parity.value("top1_agreement") == 1 and published.parity.value("change_from_base") > 0.1
    assert {"tokenizer.json", "chat_template.jinja"} <= {path.name for path in folder.iterdir()}
    card = (folder / "README.md").read_text()
    assert "PeftModel.from_pretrained" in card and "library_name: peft" in card and "与基座" in card
    by_peft = PeftModel.from_pretrained(load_model(trained.base.path, dtype=torch.float32).model, str(folder)).eval()
    merged = merge_into(load_model(trained.base.path, dtype=torch.float32), trained.base, trained.adapter)
    assert torch.allclose(logits(by_peft), logits(merged.model), atol=1e-4)


def test_its_base_is_found_again_and_held_to_its_hash(
    published: publish.Artifact, trained: Trained, tmp_path: Path
) -> None:
    loaded, base = load_published(published.path, base=str(trained.base.path), dtype=torch.float32)
    assert base.sha256 == trained.base.sha256
    assert torch.equal(logits(loaded.model), logits(load_evaluated(trained.base, trained.adapter)))
    own = load_model(trained.base.path, dtype=torch.float32)
    assert loaded.template == own.template and loaded.end_token_ids == own.end_token_ids
    with pytest.raises(TunesmithError) as nameless:
        load_published(published.path, base=None, dtype=torch.float32)
    assert nameless.value.code == "adapt.base_needed"
    other = tiny_chat_model(tmp_path / "other", seed=9, spread=0.2, heads=2)
    with pytest.raises(TunesmithError) as wrong:
        load_published(published.path, base=str(other), dtype=torch.float32)
    assert wrong.value.code == "ship.other_base"


def test_an_adapter_of_others_needs_no_manifest(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "downloaded"
    shutil.copytree(trained.adapter, folder)
    loaded, _ = load_published(folder, base=str(trained.base.path), dtype=torch.float32)
    assert torch.equal(logits(loaded.model), logits(load_evaluated(trained.base, folder)))
    with pytest.raises(TunesmithError, match=r"adapt\.base_needed"):
        load_published(folder, base=None, dtype=torch.float32)


def test_check_published_sees_a_changed_adapter(trained: Trained, tmp_path: Path) -> None:
    (artifact,) = publish.ship_formats(shipping(tmp_path, trained), ["adapter"])
    (parity,) = publish.check_published(shipping(tmp_path, trained))
    assert parity.format == "adapter" and parity.ok
    file = artifact.path / "adapter_model.safetensors"
    save_file({name: each * 1.5 for name, each in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(TunesmithError) as caught:
        publish.check_published(shipping(tmp_path, trained))
    assert caught.value.code == "ship.parity_failed" and "largest_logit_gap" in str(caught.value)


def test_what_asks_for_more_than_tensors_is_not_handed_on(trained: Trained, tmp_path: Path) -> None:
    """Settings without effect here, such as the name of a module to import, are not published."""
    folder = tmp_path / "change"
    shutil.copytree(trained.adapter, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["auto_mapping"] = {"base_model_class": "Evil", "parent_library": "evil"}
    config["target_modules"] = r".*(q|k|v|o|gate|up|down)_proj"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (artifact,) = publish.ship_formats(shipping(tmp_path / "run", trained, folder), ["adapter"])
    written = json.loads((artifact.path / "adapter_config.json").read_text())
    assert written["auto_mapping"] is None and "model.layers.0.self_attn.q_proj" in written["target_modules"]


def test_a_subset_is_published_beside_its_base(trained: Trained, tmp_path: Path) -> None:
    policy = Policy(load_model(trained.base.path, dtype=torch.float32).model)
    attached = attach(policy, SubsetSpec(kind="subset", first_layer=-1), seed=1, base_name=trained.base.name)
    change = tmp_path / "change"
    change.mkdir()
    attached.save(change, {name: each + 0.05 for name, each in attached.delta().items()})
    (artifact,) = publish.ship_formats(shipping(tmp_path / "run", trained, change), ["adapter"])
    assert kind_of(artifact.path).name == "subset" and artifact.parity.judge.startswith("plain torch")
    assert read_manifest(artifact.path)["tensors_moved"] == len(attached.trainable)
    loaded, _ = load_published(artifact.path, base=str(trained.base.path), dtype=torch.float32)
    assert torch.equal(logits(loaded.model), logits(load_evaluated(trained.base, change)))
