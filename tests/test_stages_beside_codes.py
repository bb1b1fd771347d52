"""Stages in a row over a base in codes: the same change is trained on beside the same codes, and merged as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stage_rows import RELATED, stage, write_chain
from torch import Tensor

from tunesmith import lifecycle, proof
from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, read_events
from tunesmith.core.files import read_json
from tunesmith.core.run import METRICS
from tunesmith.models.quantized import quantized_layers
from tunesmith.recipe.load import load_recipe
from tunesmith.runtime.local import LocalRuntime
from tunesmith.ship.merge import merge_into
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import Job
from tunesmith.training import build_stage

ADAPTS = {
    "lora": "adapt: {kind: lora, rank: 4}",
    "dora": "adapt: {kind: lora, rank: 4, use_dora: true}",
    "pissa": "adapt: {kind: lora, rank: 4, init_lora_weights: pissa}",
    "olora": "adapt: {kind: lora, rank: 4, init_lora_weights: olora}",
}
CASES = [("nf4", "lora"), ("int8", "dora"), ("nf4", "pissa"), ("int8", "olora")]


def job_of(work: lifecycle.Work, place: int, folder: Path) -> Job:
    return build_stage(work, work.recipe.stages[place], LocalRuntime(work.recipe.runtime), folder, SILENT)


def codes(job: Job) -> dict[str, Tensor]:
    """Every byte that stands for a frozen weight."""
    layers = quantized_layers(job.policy)
    assert layers
    return {
        f"{name}.{part}": each for name, layer in layers.items() for part, each in layer.named_buffers() if each.numel()
    }


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=torch.arange(3, 40)[None], use_cache=False).logits
    return found


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_a_change_is_trained_on_beside_the_same_codes(form: str, kind: str, tmp_path: Path) -> None:
    adapt = ADAPTS[kind]
    chain = (stage("related", RELATED, adapt), stage("instruct", adapt))
    recipe = write_chain(tmp_path, *chain, dtype=f"float32, quantize: {form}")
    work = lifecycle.start(recipe, (), tmp_path / "runs", ())
    lifecycle.run_to_release(work)

    assert work.received(work.recipe.stages[1]) == work.base(), "the change stands on the base itself"
    first, second = (job_of(work, place, tmp_path / str(place)) for place in range(2))
    before, after = codes(first), codes(second)
    assert before.keys() == after.keys() and all(torch.equal(each, after[name]) for name, each in before.items())
    kept = load_file(work.path / "related" / "best" / "masters.safetensors")
    assert all(torch.equal(each, kept[name]) for name, each in second.optimizer.masters.items())
    began = first.optimizer.masters
    assert any(not torch.equal(each, began[name]) for name, each in kept.items()), "something had been learned"

    best = work.change.joinpath("adapter_model.safetensors").read_bytes()
    (ended,) = (
        each for each in checkpoint_paths(work.path / "instruct")
        if each.joinpath("adapter_model.safetensors").read_bytes() == best
    )  # fmt: skip
    moving = dict(second.policy.named_parameters())
    for name, each in load_file(ended / "masters.safetensors").items():
        moving[name].data.copy_(each)
    with second.policy.answering() as model:
        trained = logits(model)
    base = work.base()
    merged = merge_into(work.load(base), base, work.change, lifecycle._weights_beside(work, base)).model
    torch.testing.assert_close(logits(merged), trained, rtol=0, atol=2e-4)

    chosen = lifecycle.merge_base(work)
    assert chosen is not None and chosen.quantize == form
    assert read_json(work.path / "ship" / "safetensors" / "parity.json")["ok"] is True
    told = [event.values for event in read_events(work.path / METRICS, "frozen")]
    assert [each["unchanged"] for each in told] == [True, True]
    certificate = proof.verify(work)
    assert certificate is not None and certificate.equal


@pytest.mark.parametrize(
    ("earlier", "later"), [("lora", "pissa"), ("lora", "dora"), ("pissa", "lora"), ("lora", "lora, rank 8")]
)
def test_another_change_cannot_be_merged_into_codes(earlier: str, later: str, tmp_path: Path) -> None:
    other = ADAPTS["lora"].replace("4", "8") if later == "lora, rank 8" else ADAPTS[later]
    chain = (stage("related", RELATED, ADAPTS[earlier]), stage("instruct", other))
    recipe = write_chain(tmp_path, *chain, dtype="float32, quantize: nf4")
    with pytest.raises(TunesmithError, match=r"compat\.stage_quantized"):
        check(load_recipe(recipe, ()))
