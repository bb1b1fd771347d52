"""Bottleneck adapters against their formulas, in training, on disk, in generation and beside their base."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from fits import local, make_job
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tunesmith.adapt.attach import attach
from tunesmith.adapt.published import load_published
from tunesmith.adapt.saved import kind_of, put_on
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_hashes, read_json
from tunesmith.models.blocks import use_blocks
from tunesmith.models.decode import packed_rows
from tunesmith.models.generate import generate
from tunesmith.models.load import load_model, resolve_base
from tunesmith.models.packed import Features, pack
from tunesmith.models.policy import Policy
from tunesmith.models.sampling import GenerateSettings
from tunesmith.models.weights import read_weights
from tunesmith.plan.sizes import size_from_config, trained_parameters
from tunesmith.recipe.specs.adapt import BottleneckSpec
from tunesmith.ship.adapter_judge import judged
from tunesmith.ship.merge import merge
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

SPECS = {
    "houlsby": BottleneckSpec(size=6, places="houlsby"),
    "pfeiffer": BottleneckSpec(size=6, places="pfeiffer", non_linearity="gelu"),
    "parallel": BottleneckSpec(size=6, places="parallel", non_linearity="silu"),
    "a small scale": BottleneckSpec(size=6, places="houlsby", scale=0.5),
}
IDS = torch.arange(3, 40)[None]
ROWS = pack(
    [
        Features(number, tuple(range(first, first + 12)), (0.0,) * 8 + (1.0, 1.0, 0.5, 1.0))
        for number, first in enumerate((5, 30, 60))
    ]
)


class Placed(NamedTuple):
    policy: Policy
    names: list[str]


def placed(base: Path, spec: BottleneckSpec, dtype: torch.dtype = torch.float64) -> Placed:
    """Bottlenecks on a policy, with values as after some training."""
    policy = Policy(load_model(base, dtype=dtype).model).train()
    attached = attach(policy, spec, seed=3, base_name="tiny")
    torch.manual_seed(4)
    for name, parameter in policy.named_parameters():
        if name in attached.trainable:
            nn.init.normal_(parameter, std=0.3)
    return Placed(policy, sorted(attached.trainable))


def logits_of(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def by_formula(base: Path, spec: BottleneckSpec, tensors: dict[str, Tensor]) -> nn.Module:
    """The base in float64 with y + s (up f(down x + b) + c) written out beside it."""
    model = load_model(base, dtype=torch.float64).model
    bend = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}[spec.non_linearity]

    def adds(module: nn.Module, part: str) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            source = inputs[0] if spec.places == "parallel" else output
            inner = bend(functional.linear(source, tensors[f"{part}.down.weight"], tensors[f"{part}.down.bias"]))
            added = functional.linear(inner, tensors[f"{part}.up.weight"], tensors[f"{part}.up.bias"])
            return output + spec.counts * added

        module.register_forward_hook(hook)

    for number, block in enumerate(model.model.layers):
        adds(block.mlp, f"layers.{number}.mlp")
        if spec.places == "houlsby":
            adds(block.self_attn.o_proj, f"layers.{number}.attention")
    return model


@pytest.mark.parametrize("name", SPECS)
def test_it_computes_the_formula_and_begins_with_nothing(base: Path, tmp_path: Path, name: str) -> None:
    spec = SPECS[name]
    untouched = load_model(base, dtype=torch.float64).model
    fresh = Policy(load_model(base, dtype=torch.float64).model)
    attached = attach(fresh, spec, seed=3, base_name="tiny")
    with fresh.answering() as model:
        assert torch.equal(logits_of(model), logits_of(untouched)), "before the first step nothing has changed"
    sizes = size_from_config(read_json(base / "config.json"))
    assert sum(each.numel() for each in attached.delta().values()) == trained_parameters(sizes, spec)
    policy, _ = placed(base, spec)
    named = {name: each.detach() for name, each in policy.named_parameters()}
    with policy.answering() as model:
        found = logits_of(model)
    again = attach(Policy(load_model(base, dtype=torch.float64).model), spec, seed=3, base_name="tiny")
    again.load({each: named[each] for each in again.trainable})
    again.save(tmp_path, again.delta())
    tensors = load_file(tmp_path / "bottleneck_model.safetensors")
    torch.testing.assert_close(found, logits_of(by_formula(base, spec, tensors)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", SPECS)
def test_fast_blocks_are_the_plain_ones(base: Path, name: str) -> None:
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for choice in ("plain", "fast"):
        policy, names = placed(base, SPECS[name])
        assert (use_blocks(policy.model, "plain" if choice == "plain" else "fast") > 0) == (choice == "fast")
        losses = policy(ROWS)
        (losses * ROWS.weight).sum().backward()
        gradients = {each: parameter.grad for each, parameter in policy.named_parameters() if parameter.requires_grad}
        assert sorted(gradients) == names
        found.append(
            (losses.detach(), {each: gradient for each, gradient in gradients.items() if gradient is not None})
        )
    (plain, plain_gradients), (fast, fast_gradients) = found
    torch.testing.assert_close(fast, plain, rtol=5e-6, atol=5e-6)  # norms are float32 in the plain blocks
    assert fast_gradients.keys() == plain_gradients.keys()
    for each, gradient in plain_gradients.items():
        assert (fast_gradients[each] - gradient).norm() <= 5e-6 * gradient.norm().clamp(min=1e-3), each


@pytest.mark.parametrize("name", SPECS)
def test_answers_are_those_of_the_plain_forward(base: Path, name: str) -> None:
    """Our own passes of generation know bottlenecks, and give what transformers' forward gives."""
    policy, _ = placed(base, SPECS[name], torch.float32)
    tokenizer = load_model(base, dtype=torch.float32).tokenizer
    prompts = [[1, 40, 50, 60], [1, 33, 44, 55, 66, 77, 88]]
    with policy.answering() as model:
        assert packed_rows(model) is not None
        answers = generate(model, tokenizer, prompts, GenerateSettings(8))
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = list(prompt)
            for token in answer.token_ids:
                assert int(logits_of(model, torch.tensor([ids]))[0, -1].argmax()) == token
                ids.append(token)


@pytest.mark.parametrize("places", ["houlsby", "pfeiffer", "parallel"])
def test_trained_saved_and_put_on_again(base: Path, tmp_path: Path, places: str) -> None:
    adapt = {"kind": "bottleneck", "size": 8, "places": places}
    job = make_job(base, tmp_path / "fit", local(), adapt=adapt)
    fit(job)
    before = read_weights(base)
    for name, parameter in job.policy.named_parameters():
        own = name.removeprefix("model.").replace(".base_layer", "")
        assert (own in before) != parameter.requires_grad
        if own in before:
            assert torch.equal(parameter, before[own]), f"{own} is frozen"
    change = checkpoint_paths(tmp_path / "fit")[-1]
    with job.policy.answering() as model:
        trained = logits_of(model)
    again = load_model(base, dtype=torch.float32).model
    assert (trained - logits_of(again)).abs().max() > 0.01
    put_on(again, change)
    torch.testing.assert_close(logits_of(again), trained, rtol=1e-5, atol=1e-5)
    folder = resolve_base(str(base))
    torch.testing.assert_close(logits_of(judged(folder, change)), trained, rtol=1e-4, atol=1e-4)
    loaded, _ = load_published(change, base=str(base), dtype=torch.float32)
    torch.testing.assert_close(logits_of(loaded.model), trained, rtol=1e-5, atol=1e-5)
    assert not kind_of(change).mergeable
    with pytest.raises(TunesmithError, match=r"ship\.stands_beside"):
        merge(folder, change)


def test_equal_seeds_begin_alike_and_checkpoints_of_activations_change_nothing(base: Path, tmp_path: Path) -> None:
    adapt = {"kind": "bottleneck", "size": 8, "places": "houlsby"}
    hashes = []
    for name, again in (("one", False), ("other", False), ("again", True)):
        fit(make_job(base, tmp_path / name, local(), adapt=adapt, settings={"gradient_checkpointing": again}))
        found = folder_hashes(checkpoint_paths(tmp_path / name)[-1])
        hashes.append({file: found[file] for file in ("bottleneck_model.safetensors", "bottleneck_config.json")})
    assert hashes[0] == hashes[1] == hashes[2]


def test_what_does_not_fit_is_refused(base: Path, tmp_path: Path) -> None:
    attached = attach(Policy(load_model(base, dtype=torch.float32).model), SPECS["pfeiffer"], seed=3, base_name="")
    attached.save(tmp_path, {name: torch.randn_like(each) for name, each in attached.delta().items()})
    file, config = tmp_path / "bottleneck_model.safetensors", tmp_path / "bottleneck_config.json"
    good, settings = load_file(file), config.read_text()
    first = next(name for name in sorted(good) if "up.weight" in name)
    cases = [
        ({name: each for name, each in good.items() if name != first}, "ship.adapter_keys"),
        ({**good, "stray": torch.ones(2)}, "ship.adapter_keys"),
        ({**good, first: good[first].T.contiguous()}, "ship.adapter_keys"),
        ({**good, first: torch.full_like(good[first], float("nan"))}, "ship.not_finite"),
        ({name: torch.zeros_like(each) for name, each in good.items()}, "ship.no_change"),
    ]
    for tensors, code in cases:
        save_file(tensors, file)
        with pytest.raises(TunesmithError) as caught:
            put_on(load_model(base, dtype=torch.float32).model, tmp_path)
        assert caught.value.code == code
    save_file(good, file)
    for old, new in (('"size": 6', '"size": "6"'), ('"pfeiffer"', '"everywhere"'), ('"gelu"', '"os.system"')):
        assert old in settings
        config.write_text(settings.replace(old, new))
        with pytest.raises(TunesmithError, match=r"ship\.adapter_setting"):
            put_on(load_model(base, dtype=torch.float32).model, tmp_path)
