"""Our own passes for models of the Llama shape against transformers' forward: the same logits at every step."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from tunesmith.models import products
from tunesmith.models.bands import cut_into_bands
from tunesmith.models.decode import PackedRows, packed_rows
from tunesmith.models.sampling import likeliest

SMALL = {
    "vocab_size": 384,
    "hidden_size": 96,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "initializer_range": 0.2,
    "max_position_embeddings": 1024,
    "pad_token_id": 2,
}
TURNS = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "llama": LlamaConfig(**SMALL),
    "tied, with biases and stretched positions": LlamaConfig(
        **SMALL, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=TURNS
    ),
    "every head its own key": LlamaConfig(**{**SMALL, "num_key_value_heads": 6}),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
}
SITES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with torch.no_grad():  # norms and biases that are not all alike
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def fast(model: PreTrainedModel) -> PackedRows:
    rows = packed_rows(model)
    assert rows is not None
    return rows


def texts(lengths: Sequence[int], seed: int = 1) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, 384) for _ in range(length)] for length in lengths]


@torch.inference_mode()
def plain(model: PreTrainedModel, text: Sequence[int]) -> Tensor:
    """Logits after the last token, by transformers."""
    logits: Tensor = model(torch.tensor([list(text)])).logits[0, -1]
    return logits


class Follower:
    """Feeds rows the tokens of given texts and compares every step with the plain forward pass."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.rows = fast(model)
        self.texts: dict[int, list[int]] = {}
        self.numbers = itertools.count(100)
        self.draw = random.Random(9)

    def _check(self, numbers: Sequence[int], logits_BV: Tensor) -> None:
        for number, logits_V in zip(numbers, logits_BV, strict=True):
            torch.testing.assert_close(logits_V, plain(self.model, self.texts[number]), atol=1e-4, rtol=1e-4)

    @torch.inference_mode()
    def read(self, prompts: Sequence[list[int]], shared: int = 0) -> None:
        numbers = [next(self.numbers) for _ in prompts]
        self.texts.update(zip(numbers, map(list, prompts), strict=True))
        self._check(numbers, self.rows.read(numbers, prompts, shared))

    @torch.inference_mode()
    def grow(self) -> None:
        latest = {number: self.draw.randrange(3, 384) for number in self.texts}
        for number, token in latest.items():
            self.texts[number].append(token)
        numbers, logits_BV = self.rows.grow(latest)
        assert sorted(numbers) == sorted(self.texts)
        self._check(numbers, logits_BV)

    @torch.inference_mode()
    def drop(self, place: int) -> None:
        number = sorted(self.texts)[place]
        del self.texts[number]
        self.rows.remove(number)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_logits_are_those_of_transformers(config: PretrainedConfig) -> None:
    follower = Follower(build(config))
    follower.read(texts([1, 40, 7, 3]))
    for _ in range(4):
        follower.grow()


def test_rows_join_and_leave_and_outgrow_their_room() -> None:
    follower = Follower(build(SHAPES["llama"]))
    follower.read(texts([5, 90, 6, 30, 31, 2]))
    for step in range(70):
        if step in (3, 20):
            follower.read(texts([12, 50], seed=step))
        if step in (2, 3, 10, 11, 12, 13, 40):
            follower.drop(step % 3)
        if step == 21:  # a row that leaves before it ever grew
            follower.read(texts([4], seed=2))
            follower.drop(-1)
        follower.grow()
    for _ in range(len(follower.texts)):
        follower.drop(0)
    follower.read(texts([8], seed=4))
    follower.grow()


@pytest.mark.parametrize("length", [2, 40])
def test_a_shared_beginning_is_read_once(length: int) -> None:
    follower = Follower(build(SHAPES["qwen2"]))
    beginning = texts([length], seed=8)[0]
    with torch.inference_mode():
        follower.rows.share(beginning)
    follower.read([beginning + rest for rest in texts([3, 20, 1])], shared=length)
    follower.grow()
    follower.read(texts([9], seed=5))
    follower.grow()


def test_prompts_of_several_blocks_of_queries() -> None:
    follower = Follower(build(SHAPES["llama"]))
    beginning = texts([270], seed=8)[0]
    with torch.inference_mode():
        follower.rows.share(beginning)
    follower.read([beginning + rest for rest in texts([520, 3])], shared=270)
    follower.read(texts([257]))
    follower.grow()


def adapted(model: PreTrainedModel, **settings: object) -> PreTrainedModel:
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.1, init_lora_weights=False, **settings)  # type: ignore[arg-type]
    torch.manual_seed(5)
    return inject_adapter_in_model(config, model).eval()


@pytest.mark.parametrize("sites", [SITES, ["q_proj", "v_proj"], ["k_proj", "down_proj"], ["gate_proj"]], ids=str)
@pytest.mark.parametrize("shape", ["tied, with biases and stretched positions", "qwen2"])
def test_adapters_in_place(sites: list[str], shape: str) -> None:
    bare = build(SHAPES[shape])
    before = plain(bare, [5, 6, 7])
    follower = Follower(adapted(bare, target_modules=sites))
    assert not torch.allclose(before, plain(follower.model, [5, 6, 7]), atol=1e-2)
    follower.read(texts([30, 4]))
    follower.grow()


def test_adapters_that_are_off_or_merged() -> None:
    model = adapted(build(SHAPES["llama"]), target_modules=SITES)
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    before = plain(model, [5, 6, 7])
    for layer in layers:
        layer.enable_adapters(False)
    off = Follower(model)
    off.read([[5, 6, 7]])
    assert not torch.allclose(before, plain(model, [5, 6, 7]), atol=1e-2)
    for layer in layers:
        layer.enable_adapters(True)
        layer.merge()
    merged = Follower(model)
    merged.read([[5, 6, 7]])
    torch.testing.assert_close(before, plain(model, [5, 6, 7]), atol=1e-4, rtol=1e-4)


def test_bfloat16_is_as_near_as_transformers_is() -> None:
    model = adapted(build(SHAPES["llama"], torch.bfloat16), target_modules=SITES).to(torch.bfloat16)
    exact = adapted(build(SHAPES["llama"]), target_modules=SITES)
    exact.load_state_dict(model.state_dict())
    prompts = texts([60, 8, 31])
    rows = fast(model)
    with torch.inference_mode():
        rows.read([0, 1, 2], prompts, 0)
        numbers, found = rows.grow({0: 5, 1: 6, 2: 7})
    wanted = torch.stack([plain(exact, [*prompts[number], 5 + number]) for number in numbers])
    theirs = torch.stack([plain(model, [*prompts[number], 5 + number]) for number in numbers])
    ours_off, theirs_off = ((each.float() - wanted).square().mean().sqrt() for each in (found, theirs))
    assert ours_off < 1.5 * theirs_off


@pytest.mark.parametrize("shape", ["tied, with biases and stretched positions", "qwen3"])
def test_weights_that_are_too_large_are_used_where_they_lie(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "REORDER_UP_TO", 0)
    model = adapted(build(SHAPES[shape]), target_modules=SITES)
    follower = Follower(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(each in name for each in ("norm", "base_layer", "embed", "head")) and "attn" not in name:
                parameter.mul_(1.25)
    follower.read(texts([30, 4]))
    follower.grow()


def watched(model: PreTrainedModel) -> PreTrainedModel:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)
    return model


def other_layer(model: PreTrainedModel) -> PreTrainedModel:
    class Noisy(torch.nn.Linear):
        pass

    model.model.layers[1].mlp.up_proj = Noisy(96, 96)
    return model


def two_of_a_kind(model: PreTrainedModel) -> PreTrainedModel:
    class Capped(type(model)):  # type: ignore[misc]
        pass

    return Capped(model.config).eval()


STRANGERS: dict[str, Callable[[], PreTrainedModel]] = {
    "gemma3": lambda: build(Gemma3TextConfig(**SMALL)),
    "a window": lambda: build(MistralConfig(**SMALL, sliding_window=6)),
    "windows in some layers": lambda: build(
        Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=6, max_window_layers=1)
    ),
    "a hook": lambda: watched(build(SHAPES["llama"])),
    "a layer of another kind": lambda: other_layer(build(SHAPES["llama"])),
    "a model of another kind": lambda: two_of_a_kind(build(SHAPES["llama"])),
    "DoRA": lambda: adapted(build(SHAPES["llama"]), target_modules=["up_proj"], use_dora=True),
    "LoRA with biases": lambda: adapted(
        build(SHAPES["tied, with biases and stretched positions"]), target_modules=["up_proj"], lora_bias=True
    ),
    "LoRA of the head": lambda: adapted(build(SHAPES["llama"]), target_modules=["lm_head"]),
}


@pytest.mark.parametrize("make", STRANGERS.values(), ids=STRANGERS)
def test_what_is_not_computed_here_is_left_to_transformers(make: Callable[[], PreTrainedModel]) -> None:
    assert packed_rows(make()) is None


def test_bands_are_the_cheapest_cut() -> None:
    from tunesmith.models.bands import _BAND_COST

    lengths = sorted([30, 31, 35, 200, 210, 640, 650, 660, 1900])

    def cost(cuts: tuple[int, ...]) -> int:
        edges = [0, *cuts, len(lengths)]
        return sum(_BAND_COST + (last - first) * lengths[last - 1] for first, last in itertools.pairwise(edges))

    every = [cuts for count in range(9) for cuts in itertools.combinations(range(1, 9), count)]
    sizes = cut_into_bands(lengths)
    assert sum(sizes) == len(lengths)
    assert cost(tuple(itertools.accumulate(sizes[:-1]))) == min(map(cost, every))
    assert cut_into_bands([]) == []
    assert cut_into_bands([7] * 40) == [40]


@pytest.mark.parametrize("vocabulary", [49152, 151936, 384, 1009])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_likeliest_token_is_the_first_of_equals(vocabulary: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, vocabulary).to(dtype)
    logits[1, 100] = logits[1, 90] = logits[1, 300] = 50
    logits[2, 7] = float("nan")
    logits[3, 8] = float("inf")
    logits[4, 9:200] = float("-inf")
    found = likeliest(logits)
    for row in (0, 1, 4, 5):
        highest = logits[row].max()
        assert found[row] == (int((logits[row] == highest).nonzero()[0]), True)
    assert found[1][0] == 90
    assert [finite for _, finite in found] == [True, True, False, False, True, True]
