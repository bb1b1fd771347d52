"""Both merges are measured, the better one is evaluated, judged and shipped, and everybody can read why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from tiny_project import write_tiny_recipe
from torch import Tensor

from tunesmith import lifecycle, proof
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event
from tunesmith.core.files import read_json, write_json
from tunesmith.models.load import BaseFolder, Loaded, load_model, resolve_base
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.models.weights import read_weights
from tunesmith.recipe.specs.model import Quantize
from tunesmith.ship import merge_base
from tunesmith.ship.merge_base import MergeBase, better_base, read_merge_base, weights_beside

NAN = math.nan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    return resolve_base(str(tiny_chat_model(tmp_path_factory.mktemp("base") / "tiny", spread=0.1)))


@pytest.mark.parametrize(
    ("original", "dequantized", "fixed", "chosen"),
    [
        (1.0, 0.9, False, "dequantized"),
        (0.9, 1.0, False, "original"),
        (1.0, 1.0, False, "original"),
        (NAN, 1.0, False, "dequantized"),
        (1.0, NAN, False, "original"),
        (1.0, 0.9, True, "original"),
    ],
)
def test_the_lower_loss_is_kept(
    tiny: BaseFolder,
    monkeypatch: pytest.MonkeyPatch,
    original: float,
    dequantized: float,
    fixed: bool,
    chosen: str,
) -> None:
    merged_with: list[Mapping[str, Tensor]] = []

    def merge_into(loaded: object, base: object, change: Path, instead: Mapping[str, Tensor]) -> object:
        merged_with.append(instead)
        return loaded

    losses: Iterator[float] = iter((original, dequantized))
    monkeypatch.setattr(merge_base, "merge_into", merge_into)
    instead = {"some.weight": torch.zeros(1)}

    def load() -> Loaded:
        return load_model(tiny.path, dtype=torch.float32)

    found = better_base(tiny, Path(), "nf4", instead, load, lambda loaded: next(losses), fixed=fixed)
    assert (found.chosen, found.quantize, merged_with) == (chosen, "nf4", [{}, instead])


def test_weights_beside_are_those_of_the_training(tiny: BaseFolder) -> None:
    assert weights_beside(tiny, "none", torch.float32) == {}
    for dtype in (torch.float32, torch.bfloat16):
        found = weights_beside(tiny, "nf4", dtype)
        trained = load_model(tiny.path, dtype=dtype, quantize="nf4").model
        assert found.keys() == {name for name in read_weights(tiny.path) if "_proj" in name}
        for name, weight in found.items():
            assert torch.equal(weight, trained.get_submodule(name.removesuffix(".weight")).weight)


def test_a_choice_that_was_written_can_be_read(tmp_path: Path) -> None:
    choice = MergeBase("dequantized", "int8", 1.25, 1.125)
    choice.write(tmp_path / "merge_base.json")
    assert read_merge_base(tmp_path / "merge_base.json") == choice
    write_json(tmp_path / "merge_base.json", {"chosen": "original"})
    with pytest.raises(TunesmithError, match=r"core\.broken_json"):
        read_merge_base(tmp_path / "merge_base.json")


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_run_beside_a_quantised_base(tmp_path: Path, quantize: Quantize) -> None:
    base = tiny_chat_model(tmp_path / "base", spread=0.1, context=2048)
    path = write_tiny_recipe(tmp_path, base)
    path.write_text(path.read_text("utf-8").replace("dtype: float32", f"dtype: float32, quantize: {quantize}"), "utf-8")
    seen: list[Event] = []
    work = lifecycle.start(path, (), tmp_path / "runs", (seen.append,))
    lifecycle.run_to_release(work)

    (told,) = (event.values for event in seen if event.kind == "merge_base")
    choice = lifecycle.merge_base(work)
    assert choice is not None and {**vars(choice), "stage": "instruct"} == told
    better = min(("original", choice.loss_original), ("dequantized", choice.loss_dequantized), key=lambda each: each[1])
    assert better[0] == choice.chosen and choice.loss_original != choice.loss_dequantized

    # What was evaluated and shipped is that very merge.
    shipped, own = read_weights(work.path / "ship" / "safetensors"), read_weights(base)
    tuned = dict(lifecycle.load_tuned(work).model.named_parameters())
    instead = weights_beside(work.base(), quantize, torch.float32) if choice.chosen == "dequantized" else {}
    adapter = read_weights_of_adapter(work.change)
    for name, weight in shipped.items():
        assert torch.equal(weight, tuned[name])
        a, b = (adapter.get(f"base_model.model.{name.replace('.weight', f'.lora_{side}.weight')}") for side in "AB")
        expected = {**own, **instead}[name] + (2 * b @ a if a is not None and b is not None else 0)
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)

    stated = read_json(work.path / "ship" / "safetensors" / "parity.json")
    assert stated["ok"] and stated["merge_base"] == vars(choice)
    for page in ("release_card.md", "release_card.html", "ship/safetensors/README.md"):
        text = (work.path / page).read_text("utf-8")
        assert all(f"{loss:.4f}" in text for loss in (choice.loss_original, choice.loss_dequantized)), page
        assert quantize in text, page
    assert "QLoRA" in (work.path / "release_card.md").read_text("utf-8")
    assert ("bitsandbytes" in lifecycle.machine_now(work.recipe)) is (quantize == "nf4")
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal

    file = work.path / "instruct" / "merge_base.json"
    other = "original" if choice.chosen == "dequantized" else "dequantized"
    file.write_text(json.dumps({**vars(choice), "chosen": other}), "utf-8")
    with pytest.raises(TunesmithError, match="hash_differs"):
        lifecycle.load_tuned(work)
    work.run.record_files(file)  # a manifest can be made to agree; the gate still sees another model
    with pytest.raises(TunesmithError, match="parity_failed"):
        proof.check_artefacts(work)


def read_weights_of_adapter(change: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(change / "adapter_model.safetensors")
