"""LoRA experts: against their formula, and one comes, moves or goes while the bytes of the others stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from fits import local, make_job
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import silu

from tunesmith.adapt.attach import attach
from tunesmith.adapt.saved import kind_of, put_on
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json
from tunesmith.models.blocks import use_blocks
from tunesmith.models.decode import packed_rows
from tunesmith.models.generate import generate
from tunesmith.models.load import load_model, resolve_base
from tunesmith.models.packed import Features, pack
from tunesmith.models.policy import Policy
from tunesmith.models.sampling import GenerateSettings
from tunesmith.models.tiny import tiny_chat_model
from tunesmith.models.weights import read_weights
from tunesmith.objectives.balance import router_load
from tunesmith.plan.sizes import size_from_config, trained_parameters
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.adapt import LoraExpertsSpec
from tunesmith.ship.adapter_judge import judged
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

IDS = torch.arange(3, 40)[None]
ROWS = pack([Features(n, tuple(range(n + 4, n + 20)), (0.0,) * 8 + (1.0,) * 8) for n in (0, 30)])
WEIGHTS, CONFIG = "lora_experts_model.safetensors", "lora_experts_config.json"


def placed(base: Path, spec: LoraExpertsSpec, dtype: torch.dtype = torch.float64) -> tuple[Policy, frozenset[str]]:
    """Experts on a policy, with values as after some training."""
    policy = Policy(load_model(base, dtype=dtype).model).train()
    attached = attach(policy, spec, seed=3, base_name="tiny")
    torch.manual_seed(4)
    for name, parameter in policy.named_parameters():
        if name in attached.trainable:
            nn.init.normal_(parameter, std=0.3)
    return policy, attached.trainable


def logits_of(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def expert_bytes(folder: Path) -> dict[int, dict[str, bytes]]:
    """Of every expert the bytes of its tensors."""
    found: dict[int, dict[str, bytes]] = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        found.setdefault(int(name.split(".")[3]), {})[name] = tensor.numpy().tobytes()
    return found


@torch.no_grad()
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_it_computes_the_formula_and_begins_with_nothing(base: Path, top_k: int) -> None:
    spec = LoraExpertsSpec(new_experts=3, top_k=top_k, rank=2, lora_alpha=3)
    fresh = Policy(load_model(base, dtype=torch.float64).model)
    attached = attach(fresh, spec, seed=3, base_name="tiny")
    with fresh.answering() as model:
        assert torch.equal(logits_of(model), logits_of(load_model(base, dtype=torch.float64).model))
    sizes = size_from_config(read_json(base / "config.json"))
    assert sum(each.numel() for each in attached.delta().values()) == trained_parameters(sizes, spec)

    policy, _ = placed(base, spec)
    mlp = policy.model.model.layers[0].mlp
    x = torch.randn(1, 5, 64, dtype=torch.float64)
    experts = mlp.mixture.experts
    rows = torch.cat([experts[str(each)].router.weight for each in range(3)])
    logits = (x @ rows.T)[0]
    expected = []
    for token, scores in zip(x[0], logits, strict=True):
        best = scores.topk(top_k)
        shares = dict(zip(best.indices.tolist(), best.values.softmax(-1), strict=True))
        assert float(sum(shares.values())) == pytest.approx(1), "the load of a router sums to 1"

        def layer(name: str, at: Tensor, shares: dict[int, Tensor] = shares) -> Tensor:
            plain: Tensor = getattr(mlp, name)(at)
            pairs = {each: getattr(experts[str(each)], name) for each in shares}
            return plain + 1.5 * sum(g * (pairs[each].B @ (pairs[each].A @ at)) for each, g in shares.items())

        expected.append(layer("down_proj", silu(layer("gate_proj", token)) * layer("up_proj", token)))
    torch.testing.assert_close(mlp(x)[0], torch.stack(expected), rtol=1e-7, atol=1e-9)


def test_fast_blocks_are_the_plain_ones(base: Path) -> None:
    found = []
    for choice in ("plain", "fast"):
        policy, names = placed(base, LoraExpertsSpec(new_experts=3, top_k=2, rank=2))
        use_blocks(policy.model, "plain" if choice == "plain" else "fast")
        losses = policy(ROWS)
        (losses * ROWS.weight).sum().backward()
        gradients = {name: each.grad for name, each in policy.named_parameters() if name in names}
        assert all(each is not None for each in gradients.values())
        found.append((losses.detach(), {name: each for name, each in gradients.items() if each is not None}))
    (plain, plain_gradients), (fast, fast_gradients) = found
    torch.testing.assert_close(fast, plain, rtol=5e-6, atol=5e-6)
    for name, gradient in plain_gradients.items():
        assert (fast_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm().clamp(min=1e-3), name


def test_answers_are_those_of_the_plain_forward(base: Path) -> None:
    policy, _ = placed(base, LoraExpertsSpec(new_experts=3, top_k=2, rank=2), torch.float32)
    tokenizer = load_model(base, dtype=torch.float32).tokenizer
    with policy.answering() as model:
        assert packed_rows(model) is not None
        prompt = [1, 40, 50, 60]
        (answer,) = generate(model, tokenizer, [prompt], GenerateSettings(8))
        ids = list(prompt)
        for token in answer.token_ids:
            assert int(logits_of(model, torch.tensor([ids]))[0, -1].argmax()) == token
            ids.append(token)


def trained(base: Path, folder: Path, **adapt: object) -> Path:
    settings = {"weight_decay": 0.3}
    job = make_job(base, folder, local(), adapt={"kind": "lora-experts", **adapt}, settings=settings, rows=12)
    fit(job)
    before = read_weights(base)
    own = {name.removeprefix("model."): each for name, each in job.policy.named_parameters()}
    assert all(torch.equal(own[name], before[name]) for name in before), "the base is frozen"
    change = checkpoint_paths(folder)[-1]
    with job.policy.answering() as model:
        found = logits_of(model)
    again = load_model(base, dtype=torch.float32).model
    put_on(again, change)
    torch.testing.assert_close(logits_of(again), found, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(judged(resolve_base(str(base)), change)), found, rtol=1e-3, atol=1e-3)
    return change


def test_one_expert_comes_moves_and_goes_and_the_others_keep_their_bytes(base: Path, tmp_path: Path) -> None:
    first = trained(base, tmp_path / "first", new_experts=3, rank=4)
    before = expert_bytes(first)
    assert sorted(before) == [0, 1, 2] and not kind_of(first).mergeable

    added = expert_bytes(trained(base, tmp_path / "added", start=str(first), new_experts=1))
    assert sorted(added) == [0, 1, 2, 3]
    assert all(added[each] == before[each] for each in before)

    updated = expert_bytes(trained(base, tmp_path / "updated", start=str(first), update=[1]))
    assert updated[0] == before[0] and updated[2] == before[2] and sorted(updated) == [0, 1, 2]
    assert all(updated[1][name] != each for name, each in before[1].items())

    thinned = expert_bytes(
        trained(
            base, tmp_path / "thinned", start=str(tmp_path / "added" / "best"), new_experts=0, update=[3], remove=[0]
        )
    )
    assert sorted(thinned) == [1, 2, 3]
    assert thinned[1] == before[1] and thinned[2] == before[2], "numbers stay, whoever goes"


def test_in_bfloat16_the_others_keep_their_bytes_too(base: Path, tmp_path: Path) -> None:
    first = trained(base, tmp_path / "first", new_experts=2, rank=2)
    before = expert_bytes(first)
    adapt = {"kind": "lora-experts", "start": str(first), "new_experts": 1}
    fit(make_job(base, tmp_path / "second", local(), adapt=adapt, rows=8, dtype=torch.bfloat16))
    after = expert_bytes(checkpoint_paths(tmp_path / "second")[-1])
    assert after[0] == before[0] and after[1] == before[1] and 2 in after


def test_in_bfloat16_an_expert_moves_on_from_the_float32_numbers_of_its_file(base: Path, tmp_path: Path) -> None:
    first = trained(base, tmp_path / "first", new_experts=2, rank=2)
    adapt = {"kind": "lora-experts", "start": str(first), "new_experts": 1, "update": [1]}
    job = make_job(base, tmp_path / "second", local(), adapt=adapt, rows=8, dtype=torch.bfloat16)
    stored, weights = load_file(first / WEIGHTS), dict(job.policy.named_parameters())
    found = [torch.equal(each, stored[name]) for name, each in on_disk(job.optimizer.masters).items() if name in stored]
    assert len(found) == len(stored) // 2 and all(found), "not what bfloat16 leaves of them"
    assert any(not torch.equal(each, each.bfloat16().float()) for each in stored.values())
    assert all(torch.equal(weights[name], each.bfloat16()) for name, each in job.optimizer.masters.items())


def on_disk(masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masters by the names of the file."""
    placed = {name: re.search(r"layers\.(\d+)\..*\.experts\.(.+)", name) for name in masters}
    return {f"layers.{at[1]}.experts.{at[2]}": masters[name] for name, at in placed.items() if at}


def test_the_balance_loss_knows_their_router(base: Path, tmp_path: Path) -> None:
    adapt = {"kind": "lora-experts", "new_experts": 4, "top_k": 1, "rank": 2}
    uneven = {}
    for weight in (None, 1.0):
        add_ons = {} if weight is None else {"penalties": {"router_balance": weight}}
        job = make_job(
            base, tmp_path / str(weight), local(), adapt=adapt, add_ons=add_ons, settings={"epochs": 6}, rows=16
        )
        fit(job)
        load = router_load(job.policy, job.passes.cut(0, job.source.window(0))[0])
        assert sorted(load) == [0, 1]
        uneven[weight] = sum(float((each / each.sum() - 0.25).abs().sum()) for each in load.values())
    assert uneven[1.0] < uneven[None]


def test_activations_computed_again_change_nothing(base: Path, tmp_path: Path) -> None:
    ends = []
    for again in (False, True):
        job = make_job(
            base,
            tmp_path / str(again),
            local(),
            adapt={"kind": "lora-experts", "new_experts": 3, "rank": 2},
            add_ons={"penalties": {"router_balance": 0.5}},
            settings={"gradient_checkpointing": again},
            rows=8,
        )
        fit(job)
        ends.append((checkpoint_paths(tmp_path / str(again))[-1] / WEIGHTS).read_bytes())
    assert ends[0] == ends[1]


def test_resumes_to_the_same_bytes(base: Path, tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, None))):
        for stop in stops:
            job = make_job(base, tmp_path / name, local(), adapt={"kind": "lora-experts", "new_experts": 2}, rows=8)
            fit(job, until=stop)
        ends.append((checkpoint_paths(tmp_path / name)[-1] / WEIGHTS).read_bytes())
    assert ends[0] == ends[1]


def test_what_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    first = trained(base, tmp_path / "first", new_experts=2, rank=2)
    other = tiny_chat_model(tmp_path / "other", spread=0.1, seed=7)
    with pytest.raises(TunesmithError, match=r"ship\.other_base"):
        make_job(
            other, tmp_path / "fit", local(), adapt={"kind": "lora-experts", "start": str(first), "new_experts": 1}
        )
    for adapt, code in (
        ({"start": str(first), "update": [5]}, "adapt.no_such_lora_expert"),
        ({"start": str(first), "new_experts": 1, "rank": 4}, "adapt.start_differs"),
        ({"start": str(tmp_path / "nowhere"), "new_experts": 1}, "ship.missing_change"),
    ):
        with pytest.raises(TunesmithError) as caught:
            make_job(base, tmp_path / "fit", local(), adapt={"kind": "lora-experts", **adapt})
        assert caught.value.code == code
    recipe = "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: s, adapt: {kind: lora-experts}}]\n"
    assert parse_recipe(recipe).formats == ["adapter"]
    for override in ("update=[1]", "new_experts=0", "start=folder"):
        with pytest.raises(TunesmithError, match=r"recipe\.bad_value"):
            parse_recipe(recipe, [f"stages.0.adapt.{override}"])
    change = tmp_path / "change"
    change.mkdir()
    good, settings = load_file(first / WEIGHTS), (first / CONFIG).read_text()
    name = sorted(good)[0]
    (change / CONFIG).write_text(settings)
    for tensors, code in (
        ({each: tensor for each, tensor in good.items() if each != name}, "ship.adapter_keys"),
        ({**good, name: good[name].T.contiguous()}, "ship.adapter_keys"),
        ({**good, name: torch.full_like(good[name], float("nan"))}, "ship.not_finite"),
        ({each: torch.zeros_like(tensor) for each, tensor in good.items()}, "ship.no_change"),
    ):
        save_file(tensors, change / WEIGHTS)
        with pytest.raises(TunesmithError) as caught:
            put_on(load_model(base, dtype=torch.float32).model, change)
        assert caught.value.code == code
    save_file(good, change / WEIGHTS)
    for old, new in (('"rank": 2', '"rank": 0'), ('"top_k": 2', '"top_k": "2"'), ('"experts": [', '"experts": [-1,')):
        assert old in settings
        (change / CONFIG).write_text(settings.replace(old, new))
        with pytest.raises(TunesmithError, match=r"ship\.adapter_setting"):
            put_on(load_model(base, dtype=torch.float32).model, change)
