"""Experts of models that have them: exactly the chosen slices move, and files, merging and loads agree with others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fits import local, make_job
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tunesmith.adapt.experts import most_used
from tunesmith.adapt.published import load_published
from tunesmith.adapt.saved import put_on
from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.files import folder_hashes, read_json
from tunesmith.core.types import Message
from tunesmith.models.expert_files import to_files, to_model
from tunesmith.models.experts import balance, choose_experts, expert_layers, watching_routers
from tunesmith.models.load import load_model, resolve_base
from tunesmith.models.tiny import tiny_moe_model
from tunesmith.models.weights import read_weights
from tunesmith.objectives.balance import router_load
from tunesmith.plan.sizes import size_from_config, trained_parameters
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.specs.adapt import ExpertsSpec
from tunesmith.recipe.specs.ship import ParityLimits
from tunesmith.ship.adapter_judge import judged
from tunesmith.ship.merge import merge, merge_into
from tunesmith.ship.publish import Shipping, ship_formats
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

ARCHITECTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def moe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_moe_model(tmp_path_factory.mktemp("moe") / request.param, request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_moe_model(tmp_path_factory.mktemp("moe") / "qwen3_moe")


def logits_of(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def test_chosen_experts_compute_and_learn_what_the_stack_does(moe: Path) -> None:
    """Against transformers' own stack in float64: the same outputs, and the slices of its gradients."""
    plain = load_model(moe, dtype=torch.float64).model
    chosen = load_model(moe, dtype=torch.float64).model
    for layer in expert_layers(chosen):
        choose_experts(chosen, layer, [1, 3])
    plain.set_experts_implementation("eager")  # the one that knows float64
    for model in (plain, chosen):
        model(input_ids=IDS, labels=IDS).loss.backward()
    torch.testing.assert_close(logits_of(chosen), logits_of(plain), rtol=1e-10, atol=1e-10)
    for whole, parts in zip(expert_layers(plain), expert_layers(chosen), strict=True):
        for stack, name in zip(whole.stacks, ("gate_up_proj", "down_proj"), strict=True):
            moving = parts.experts.get_parameter(f"moving_{name}").grad
            assert stack.grad is not None and moving is not None
            torch.testing.assert_close(moving, stack.grad[[1, 3]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("router", [False, True], ids=["experts alone", "with routers"])
def test_exactly_the_chosen_slices_move(moe: Path, tmp_path: Path, router: bool) -> None:
    adapt = {"kind": "experts", "experts": [0, 2], "router": router}
    settings = {"weight_decay": 0.5}
    groups = {"rates": {"router": 0.5}} if router else {}
    job = make_job(moe, tmp_path / "fit", local(), adapt=adapt, settings=settings, groups=groups, rows=12)
    spec = ExpertsSpec(experts=[0, 2], router=router)
    sizes = size_from_config(read_json(moe / "config.json"))
    assert sum(each.numel() for each in job.optimizer.masters.values()) == trained_parameters(sizes, spec)
    fit(job)
    change = checkpoint_paths(tmp_path / "fit")[-1]
    base = resolve_base(str(moe))
    merged, before = merge(base, change), read_weights(moe)
    assert merged.tensors.keys() == before.keys()
    stands = [name for name in before if torch.equal(merged.tensors[name], before[name])]
    expected = {name for name in before if any(f".experts.{each}." in name for each in (0, 2))}
    expected |= {name for name in before if name.endswith(".gate.weight")} if router else set()
    assert set(merged.changed) == expected == before.keys() - set(stands)
    with job.policy.answering() as model:
        trained = logits_of(model)
    for again in (
        merge_into(load_model(moe, dtype=torch.float32), base, change).model,
        judged(base, change),
        load_published(change, base=str(moe), dtype=torch.float32)[0].model,
    ):
        torch.testing.assert_close(logits_of(again), trained, rtol=1e-5, atol=1e-5)


def test_all_experts_move_in_their_stacks_and_resume_to_the_same_bytes(qwen: Path, tmp_path: Path) -> None:
    adapt = {"kind": "experts"}
    ends = []
    for name, stops in (("whole", (None,)), ("broken", (2, None))):
        for stop in stops:
            fit(make_job(qwen, tmp_path / name, local(), adapt=adapt, rows=8), until=stop)
        found = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        ends.append({file: digest for file, digest in found.items() if file != "state.json"})
    assert ends[0] == ends[1]
    changed = merge(resolve_base(str(qwen)), checkpoint_paths(tmp_path / "whole")[-1]).changed
    assert changed and all(".experts." in name for name in changed)


def test_the_most_used_experts_are_measured_once_and_told(qwen: Path, tmp_path: Path) -> None:
    adapt = {"kind": "experts", "most_used": 2}
    said: list[Event] = []
    job = make_job(qwen, tmp_path / "fit", local(), adapt=adapt, rows=8, emitter=Events(None, (said.append,)))
    told = [each.values for each in said if each.values.get("code") == "train.expert_load"]
    assert [each["layer"] for each in told] == [0, 1]
    for each in told:
        shares = [float(share) for share in str(each["shares"]).split(", ")]
        assert sum(shares) == pytest.approx(1, abs=2e-3), "the load of a router sums to 1"
    fit(job)
    config = read_json(checkpoint_paths(tmp_path / "fit")[-1] / "experts_config.json")
    assert isinstance(config["experts"], dict)
    for each in told:
        shares = [float(share) for share in str(each["shares"]).split(", ")]
        best = sorted(sorted(range(4), key=lambda place: -shares[place])[:2])
        assert config["experts"][str(each["layer"])] == best
    with pytest.raises(TunesmithError, match=r"train\.kept_differs"):
        make_job(qwen, tmp_path / "fit", local(), adapt=adapt, rows=6)
    assert most_used(torch.tensor([3.0, 5.0, 5.0, 1.0]), 2) == [1, 2]


def test_load_counts_what_the_routers_choose(qwen: Path, tmp_path: Path) -> None:
    job = make_job(qwen, tmp_path / "fit", local(), adapt={"kind": "experts"}, rows=4)
    batch = job.passes.cut(0, job.source.window(0))[0]
    load = router_load(job.policy, batch)
    assert set(load) == {0, 1}
    assert all(each.sum() == 2 * batch.num_tokens for each in load.values()), "every token meets two experts"


def test_balance_is_the_one_of_others(qwen: Path) -> None:
    """transformers' figure counts choices a token (top_k of them) and takes all blocks as one; of one block, ours
    times top_k."""
    model = load_model(qwen, dtype=torch.float32).model
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    with watching_routers(model, lambda layer, logits, choices: seen.update({layer: (logits, choices)})):
        model(input_ids=IDS)
    for logits, choices in seen.values():
        theirs = load_balancing_loss_func((logits,), num_experts=4, top_k=2)
        torch.testing.assert_close(2 * balance(logits, choices), theirs)
    even = torch.zeros(8, 4)
    assert float(balance(even, torch.arange(16).reshape(8, 2) % 4)) == pytest.approx(1)


def test_the_balance_loss_evens_the_load_and_is_no_part_of_the_validation(qwen: Path, tmp_path: Path) -> None:
    adapt = {"kind": "experts", "router": True}
    uneven = {}
    for weight in (None, 1.0):
        said: list[Event] = []
        job = make_job(
            qwen,
            tmp_path / str(weight),
            local(),
            adapt=adapt,
            rows=16,
            settings={"epochs": 6},
            add_ons={} if weight is None else {"penalties": {"router_balance": weight}},
            emitter=Events(None, (said.append,)),
        )
        fit(job)
        load = router_load(job.policy, job.passes.cut(0, job.source.window(0))[0])
        uneven[weight] = sum(float((each / each.sum() - 0.25).abs().sum()) for each in load.values())
        steps = [each.values for each in said if each.kind == "step"]
        assert all(("router_balance" in each) == (weight is not None) for each in steps)
        validated = [float(str(each.values["loss"])) for each in said if each.kind == "validation"]
        assert validated[-1] < 7, "without the balance loss"
    assert uneven[1.0] < uneven[None]


@pytest.mark.parametrize("experts", ["all", [1, 2]], ids=["all", "some"])
def test_activations_computed_again_change_nothing(qwen: Path, tmp_path: Path, experts: object) -> None:
    ends = []
    for again in (False, True):
        job = make_job(
            qwen,
            tmp_path / str(again),
            local(),
            adapt={"kind": "experts", "experts": experts, "router": True},
            add_ons={"penalties": {"router_balance": 0.5}},
            settings={"gradient_checkpointing": again},
            rows=8,
        )
        fit(job)
        ends.append((checkpoint_paths(tmp_path / str(again))[-1] / "experts_model.safetensors").read_bytes())
    assert ends[0] == ends[1]


def test_what_does_not_exist_is_refused(base: Path, qwen: Path, tmp_path: Path) -> None:
    cases = [
        (base, {"kind": "experts"}, {}, "adapt.no_experts"),
        (base, {"kind": "lora", "rank": 2}, {"penalties": {"router_balance": 0.1}}, "adapt.no_experts"),
        (qwen, {"kind": "experts", "experts": [1, 4]}, {}, "adapt.no_such_expert"),
        (qwen, {"kind": "experts", "most_used": 5}, {}, "adapt.no_such_expert"),
    ]
    for number, (model, adapt, add_ons, code) in enumerate(cases):
        with pytest.raises(TunesmithError) as caught:
            make_job(model, tmp_path / str(number), local(), adapt=adapt, add_ons=add_ons)
        assert caught.value.code == code
    recipe = "model: {base: m}\ndata: {sources: [{path: a.jsonl}]}\nstages: [{name: s, adapt: {kind: experts}}]\n"
    assert parse_recipe(recipe).formats == ["safetensors", "gguf-q8_0"]
    for override, code in (("stages.0.adapt.experts=[1, 1]", "recipe.bad_value"),):
        with pytest.raises(TunesmithError) as caught:
            check(parse_recipe(recipe, [override]))
        assert caught.value.code == code, override


def test_files_of_a_family_and_tensors_in_memory_are_the_same(moe: Path) -> None:
    config = read_json(moe / "config.json")
    architecture = str(config["model_type"])
    stored = read_weights(moe)
    own = {name: each for name, each in load_model(moe, dtype=torch.float32).model.named_parameters()}
    stacked = to_model(architecture, stored)
    assert stacked.keys() == own.keys()
    assert all(torch.equal(stacked[name], own[name]) for name in own)
    again = to_files(architecture, stacked)
    assert again.keys() == stored.keys() and all(torch.equal(again[name], stored[name]) for name in stored)


@pytest.mark.parametrize("kind", ["full", "subset", "lora"])
def test_other_adaptations_of_a_model_with_experts_merge_too(moe: Path, tmp_path: Path, kind: str) -> None:
    own = {"subset": {"parts": ["experts"]}, "lora": {"rank": 2}}.get(kind, {})
    job = make_job(moe, tmp_path / "fit", local(), adapt={"kind": kind, **own}, rows=8, settings={"epochs": 1.0})
    fit(job)
    with job.policy.answering() as model:
        trained = logits_of(model)
    change, base = checkpoint_paths(tmp_path / "fit")[-1], resolve_base(str(moe))
    merged = merge_into(load_model(moe, dtype=torch.float32), base, change)
    torch.testing.assert_close(logits_of(merged.model), trained, rtol=1e-4, atol=1e-4)
    beside = load_model(moe, dtype=torch.float32).model
    put_on(beside, change)
    torch.testing.assert_close(logits_of(beside), trained, rtol=1e-4, atol=1e-4)


def test_experts_are_published_merged_and_beside_their_base(qwen: Path, tmp_path: Path) -> None:
    fit(make_job(qwen, tmp_path / "fit", local(), adapt={"kind": "experts", "experts": [1]}, rows=8))
    chats = [[Message("user", f"Where is {n}?"), Message("assistant", f"Here, {n}.")] for n in range(4)]
    limits = ParityLimits(chats=4)
    base = resolve_base(str(qwen))
    run = tmp_path / "runs" / "demo" / "1"
    change = tmp_path / "fit" / "best"
    found = ship_formats(Shipping(run, base, change, chats, None, limits), ["safetensors", "adapter"])
    assert [each.format for each in found] == ["safetensors", "adapter"] and all(each.parity.ok for each in found)
    model = AutoModelForCausalLM.from_pretrained(str(found[0].path), local_files_only=True)
    assert model.config.model_type == "qwen3_moe"
    assert load_file(found[0].path / "model.safetensors").keys() == read_weights(qwen).keys(), "the family's own names"


def test_what_does_not_fit_is_refused(qwen: Path, tmp_path: Path) -> None:
    fit(make_job(qwen, tmp_path / "fit", local(), adapt={"kind": "experts", "experts": [1]}, rows=4))
    change = tmp_path / "change"
    change.mkdir()
    for name in ("experts_config.json", "experts_model.safetensors"):
        (change / name).write_bytes((tmp_path / "fit" / "best" / name).read_bytes())
    file, config = change / "experts_model.safetensors", change / "experts_config.json"
    good, settings = load_file(file), config.read_text()
    first = sorted(good)[0]
    for tensors, code in (
        ({name: each for name, each in good.items() if name != first}, "ship.adapter_keys"),
        ({**good, "layers.0.router": torch.ones(4, 32)}, "ship.adapter_keys"),
        ({**good, first: torch.full_like(good[first], float("inf"))}, "ship.not_finite"),
        ({**good, first: good[first][:-1].clone()}, "ship.adapter_keys"),
    ):
        save_file(tensors, file)
        with pytest.raises(TunesmithError) as caught:
            put_on(load_model(qwen, dtype=torch.float32).model, change)
        assert caught.value.code == code
    save_file(good, file)
    for old, new in (
        ('"router": false', '"router": 1'),
        ('"0": [\n      1', '"0": [\n      "1"'),
        ('"0": [', '"x": ['),
    ):
        assert old in settings, settings
        config.write_text(settings.replace(old, new))
        with pytest.raises(TunesmithError, match=r"ship\.adapter_setting"):
            put_on(load_model(qwen, dtype=torch.float32).model, change)
