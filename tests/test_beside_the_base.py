"""A change that cannot be merged goes the whole way: trained, evaluated, published, verified, served and asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_project import write_tiny_recipe
from typer.testing import CliRunner

from tunesmith import lifecycle, proof
from tunesmith.adapt.published import load_published
from tunesmith.cli.main import app
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Events
from tunesmith.core.files import MANIFEST, read_manifest
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve.server import open_service

KEY = "a-key-of-24-characters.."


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> lifecycle.Work:
    """A finished run of bottleneck adapters whose recipe leaves the formats open."""
    folder = tmp_path_factory.mktemp("beside")
    base = tiny_chat_model(folder / "base", spread=0.1, context=2048)
    recipe = write_tiny_recipe(folder, base, rows=(24, 6, 8))
    text = recipe.read_text("utf-8").replace("formats: [safetensors], ", "")
    text = text.replace(
        "train: {epochs: 2", "adapt: {kind: bottleneck, size: 8, places: houlsby}\n    train: {epochs: 2"
    )
    recipe.write_text(text, "utf-8")
    work = lifecycle.start(recipe, (), folder / "runs", ())
    lifecycle.run_to_release(work)
    return work


def test_the_lock_says_what_is_published_and_the_card_knows_it(work: lifecycle.Work) -> None:
    assert work.recipe.ship.formats == ["adapter"], "settled, and written into the lock"
    folder = work.path / "ship" / "adapter"
    names = {path.name for path in folder.iterdir()}
    assert {"bottleneck_config.json", "bottleneck_model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "model.safetensors" not in names
    facts = read_manifest(folder)
    assert facts["adaptation"] == "bottleneck" and facts["base_sha256"] == work.base().sha256
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["ok"] and parity["judge"].startswith("plain torch")
    card = (work.path / "release_card.md").read_text("utf-8")
    assert "adapter" in card and "bottleneck adapter, houlsby, size 8" in card
    assert proof.verify(work) is not None


def test_the_lines_of_the_card_give_the_same_model(work: lifecycle.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, base = work.path / "ship" / "adapter", str(work.base().path)
    code = (folder / "README.md").read_text("utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    found: dict[str, object] = {}
    exec(compile(code.replace("BASE", base), "card", "exec"), found)
    ours, _ = load_published(folder, base=base, dtype=torch.float32)
    ids = torch.arange(3, 30)[None]
    with torch.inference_mode():
        theirs = found["model"](input_ids=ids, use_cache=False).logits  # type: ignore[operator]
        torch.testing.assert_close(theirs, ours.model(input_ids=ids, use_cache=False).logits, rtol=1e-4, atol=1e-4)


def test_merged_formats_are_refused_before_anything_runs(work: lifecycle.Work) -> None:
    recipe = work.path.parents[2] / "recipe.yaml"
    for formats in ("[safetensors]", "[adapter, gguf-q8_0]"):
        with pytest.raises(TunesmithError) as caught:
            lifecycle.start(recipe, [f"ship.formats={formats}"], work.path.parents[2] / "other", ())
        assert caught.value.code == "compat.format_needs_merge"


def test_it_is_served_on_its_base_and_on_no_other(work: lifecycle.Work, tmp_path: Path) -> None:
    folder, base = work.path / "ship" / "adapter", str(work.base().path)
    store = f"sqlite:///{tmp_path}/store.db"
    open_service(folder, ServeSpec(port=0), store, work.events, KEY, base=base).stop()
    with pytest.raises(TunesmithError) as nameless:
        open_service(folder, ServeSpec(port=0), store, Events(None, ()), KEY)
    assert nameless.value.code == "adapt.base_needed"
    other = tiny_chat_model(tmp_path / "other", spread=0.1, seed=8, context=2048)
    with pytest.raises(TunesmithError) as wrong:
        open_service(folder, ServeSpec(port=0), store, Events(None, ()), KEY, base=str(other))
    assert wrong.value.code == "ship.other_base"


def test_chat_and_predict_find_the_base_in_the_run(work: lifecycle.Work, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Where is my parcel?"}\n', "utf-8")
    base = str(work.base().path)
    copied = tmp_path / "copied"
    copied.mkdir()
    for path in (work.path / "ship" / "adapter").iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    calls = [
        ["predict", "rows.jsonl", "--model", str(work.path), "--out", "a.jsonl"],
        ["predict", "rows.jsonl", "--model", str(copied), "--base", base, "--out", "b.jsonl"],
    ]
    for call in calls:
        told = [str(tmp_path / each) if each.endswith(".jsonl") else each for each in call]
        result = CliRunner().invoke(app, [*told, "--max-new-tokens", "6"])
        assert result.exit_code == 0, result.output
    assert (copied / MANIFEST).is_file()
    with_system, without = ((tmp_path / f"{name}.jsonl").read_text("utf-8") for name in "ab")
    assert json.loads(with_system)["answer"] is not None and json.loads(without)["answer"] is not None
    lost = CliRunner().invoke(app, ["predict", str(tmp_path / "rows.jsonl"), "--model", str(copied), "--json"])
    assert json.loads(lost.stdout)["error"]["code"] in ("recipe.exists", "adapt.base_needed")
    asked = CliRunner().invoke(app, ["chat", str(work.path), "--max-new-tokens", "4", "--json"], input="Hello\n")
    assert asked.exit_code == 0 and json.loads(asked.stdout)["turns"][0]["user"] == "Hello"
