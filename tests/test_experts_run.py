"""Whole runs of a model with experts, and of a dense one that grows them: trained, published, gone on from."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_project import write_tiny_recipe

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json
from tunesmith.models.tiny import tiny_chat_model, tiny_moe_model
from tunesmith.models.weights import read_weights


def recipe_of(folder: Path, base: Path, stage: str) -> Path:
    recipe = write_tiny_recipe(folder, base, rows=(16, 4, 6))
    text = (
        recipe.read_text("utf-8")
        .replace("formats: [safetensors], ", "")
        .replace("epochs: 2", "epochs: 1")
        .replace("save_steps: 3", "save_steps: 1")
    )
    recipe.write_text(text.replace("- name: instruct\n", f"- name: instruct\n{stage}"), "utf-8")
    return recipe


def test_experts_from_a_recipe_to_a_release(tmp_path: Path) -> None:
    base = tiny_moe_model(tmp_path / "base", "qwen2_moe")
    stage = (
        "    adapt: {kind: experts, most_used: 2, router: true}\n"
        "    groups: {rates: {router: 0.1}}\n"
        "    penalties: {router_balance: 0.01}\n"
    )
    formats = "ship.formats=[safetensors, gguf-f16]"
    work = lifecycle.start(recipe_of(tmp_path, base, stage), (formats,), tmp_path / "runs", ())
    lifecycle.run_to_release(work)
    parity = read_json(work.path / "ship" / "gguf-f16" / "parity.json")
    assert parity["ok"] is True and parity["judge"] == "llama.cpp (xllamacpp)"
    published, before = load_file(work.path / "ship" / "safetensors" / "model.safetensors"), read_weights(base)
    assert published.keys() == before.keys()
    moved = {name for name in before if (published[name] != before[name]).any()}
    assert moved and all(".experts." in name or name.endswith(".mlp.gate.weight") for name in moved)
    assert "experts, 2 most used, router" in (work.path / "release_card.md").read_text("utf-8")
    assert (work.path / "instruct" / "expert_load" / "manifest.json").is_file()
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


def test_a_run_goes_on_from_the_experts_of_another(tmp_path: Path) -> None:
    base = tiny_chat_model(tmp_path / "base", spread=0.1, context=2048)
    stage = "    adapt: {kind: lora-experts, new_experts: 2, rank: 2}\n"
    recipe = recipe_of(tmp_path, base, stage)
    first = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.run_to_release(first)
    artefact = first.path / "ship" / "adapter"
    relative = artefact.relative_to(tmp_path)
    override = f"stages.0.adapt={{kind: lora-experts, start: {relative}, new_experts: 1, remove: [0]}}"
    second = lifecycle.start(recipe, (override,), tmp_path / "others", ())
    assert any("stages.adapt.start" in each for each in second.run.manifest()["sources"])  # type: ignore[union-attr]
    lifecycle.run_to_release(second)
    before, after = (load_file(each / "lora_experts_model.safetensors") for each in (artefact, second.change))
    names = {int(name.split(".")[3]) for name in after}
    assert names == {1, 2}
    assert all((after[name] == each).all() for name, each in before.items() if ".experts.1." in name)
    assert "LoRA experts, 1 new" in (second.path / "release_card.md").read_text("utf-8")
    weights = artefact / "lora_experts_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(TunesmithError, match=r"hash_differs"):
        proof.certify_resume(second)
