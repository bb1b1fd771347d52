"""Frozen linear layers in codes: the numbers of bitsandbytes, the arithmetic of dense layers, and bytes that stay."""

from __future__ import annotations

import math
from pathlib import Path

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional
from torch import Tensor, nn

from tunesmith.core.errors import TunesmithError
from tunesmith.models import decode, nf4, quantized
from tunesmith.models.blocks import use_blocks
from tunesmith.models.decode import PackedRows, packed_rows
from tunesmith.models.generate import GenerateSettings, generate
from tunesmith.models.load import load_model
from tunesmith.models.packed import Features, pack
from tunesmith.models.policy import Policy
from tunesmith.models.quantized import (
    Form,
    QuantizedLinear,
    dequantized_weights,
    form_of,
    held_numbers,
    quantize_blocks,
    quantized_layers,
)
from tunesmith.models.tiny import tiny_chat_model

FORMS: tuple[Form, ...] = ("nf4", "int8")
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat_model(tmp_path_factory.mktemp("base") / "tiny", spread=0.1)


def linear(outputs: int, inputs: int, dtype: torch.dtype = torch.float32, bias: bool = False) -> nn.Linear:
    torch.manual_seed(outputs)
    return nn.Linear(inputs, outputs, bias=bias).to(dtype)


def held(layer: nn.Module) -> dict[str, bytes]:
    return {name: each.flatten().view(torch.uint8).numpy().tobytes() for name, each in layer.named_buffers()}


# ------------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(64, 64), (3, 64), (1536, 576)], ids=str)
def test_nf4_is_what_bitsandbytes_makes_of_it(shape: tuple[int, int], dtype: torch.dtype) -> None:
    layer = linear(*shape, dtype)
    codes, state = functional.quantize_4bit(
        layer.weight.detach(), blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    made = QuantizedLinear(layer, "nf4")
    assert torch.equal(made.codes, codes.flatten()) and torch.equal(made.magnitudes, state.absmax)
    assert made.weight.dtype == dtype
    assert torch.equal(made.weight, functional.dequantize_4bit(codes, state))


@pytest.mark.parametrize("shape", [(50, 96), (7, 10), (9, 32), (16, 65), (128, 64)], ids=str)
def test_nf4_where_blocks_go_on_in_the_next_row(shape: tuple[int, int]) -> None:
    """bitsandbytes' function for CPUs is wrong there if it is told of the rows: the formula itself is the reference."""
    layer = linear(*shape)
    made = QuantizedLinear(layer, "nf4")
    codes, magnitudes, scales = made.packed.parts
    levels = functional.get_4bit_type("nf4", device="cpu")
    largest = functional.create_dynamic_map()[magnitudes.long()] * scales[:-1].repeat_interleave(256)[: len(magnitudes)]
    numbers = levels[torch.stack([codes >> 4, codes & 15], dim=1).flatten().long()]
    expected = numbers * (largest + scales[-1]).repeat_interleave(64)[: layer.weight.numel()]
    assert torch.equal(made.weight.flatten(), expected)
    blocks = layer.weight.detach().flatten().split(64)
    errors = (made.weight - layer.weight.detach()).flatten().split(64)
    widest = float(levels.diff().max()) / 2 + 0.06  # half of the widest gap between levels, and the rounded magnitude
    assert all(error.abs().max() <= widest * block.abs().max() for error, block in zip(errors, blocks, strict=True))


def test_int8_is_rounded_row_by_row() -> None:
    layer = linear(6, 40)
    layer.weight.data[3] = 0
    made = QuantizedLinear(layer, "int8")
    codes, largest, _ = functional.int8_vectorwise_quant(layer.weight.detach()[[0, 1, 2, 4, 5]])
    assert torch.equal(made.codes[[0, 1, 2, 4, 5]], codes) and not made.codes[3].any()
    expected = functional.int8_vectorwise_dequant(codes, largest)
    torch.testing.assert_close(made.weight[[0, 1, 2, 4, 5]], expected, rtol=1e-6, atol=1e-8)
    half_a_step = layer.weight.detach().abs().amax(1, keepdim=True) / 254
    assert bool(((made.weight - layer.weight.detach()).abs() <= half_a_step * 1.0001).all())


def test_what_cannot_be_held_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TunesmithError, match="odd_weight"):
        QuantizedLinear(linear(3, 5), "nf4")
    assert QuantizedLinear(linear(3, 5), "int8").weight.shape == (3, 5)
    with pytest.raises(TunesmithError, match="nothing_to_quantize"):
        quantize_blocks(nn.Sequential(linear(4, 4)), "int8")
    monkeypatch.setattr(nf4, "find_spec", lambda name: None)
    with pytest.raises(TunesmithError, match="bitsandbytes_missing"):
        nf4.require_nf4()


# ---------------------------------------------------------------------------------------------- a linear layer


@pytest.mark.parametrize("dtype", [torch.float64, *DTYPES], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_forward_and_backward_are_those_of_the_dense_layer(form: Form, dtype: torch.dtype) -> None:
    made = QuantizedLinear(linear(24, 64, bias=True), form).to(dtype)
    dense = nn.Linear(64, 24).to(dtype)
    dense.weight.data.copy_(made.weight)
    dense.bias.data.copy_(made.bias)
    outcomes = []
    for layer in (made, dense):
        given = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        output = layer(given)
        output.square().sum().backward()
        layer_bias = layer.bias.grad
        assert given.grad is not None and layer_bias is not None
        outcomes.append((output.detach(), given.grad, layer_bias))
    for ours, plain in zip(*outcomes, strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_happens_to_a_module_changes_its_codes(form: Form) -> None:
    layer = nn.Sequential(QuantizedLinear(linear(24, 64), form))
    before, weight = held(layer), layer[0].weight
    for _ in range(2):
        layer.train()
        layer(torch.randn(3, 64, requires_grad=True)).sum().backward()
        layer.eval()
        with torch.inference_mode():
            layer(torch.randn(3, 64))
    assert held(layer) == before and torch.equal(layer[0].weight, weight)
    parts = before.keys() - {"0.wanted"}
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float32):
        layer.to(dtype)
        assert layer[0].weight.dtype == dtype
        now = held(layer)
        assert all(now[name] == before[name] for name in parts)
    layer.load_state_dict(layer.state_dict())
    assert torch.equal(layer[0].weight, weight) and layer.state_dict().keys() == parts


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 64), (48, 32), (1536, 576), (7, 10)])
def test_bytes_are_those_of_the_formula(outputs: int, inputs: int) -> None:
    numbers = outputs * inputs
    blocks = math.ceil(numbers / 64)
    expected = {"nf4": numbers // 2 + blocks + 4 * math.ceil(blocks / 256) + 4, "int8": numbers + 4 * outputs}
    for form in FORMS:
        made = QuantizedLinear(linear(outputs, inputs), form)
        assert sum(each.nbytes for each in made.buffers()) == expected[form]
        assert held_numbers(made) == numbers and not list(made.parameters())


@pytest.mark.skipif(not functional.has_avx512bf16(), reason="the library repacks on CPUs with bfloat16 instructions")
def test_why_the_library_s_own_layer_is_not_used() -> None:
    """One evaluation pass changes its bytes, and what is read back from them is another weight."""
    layer = bitsandbytes.nn.Linear4bit(128, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.weight = bitsandbytes.nn.Params4bit(linear(64, 128).weight.data, requires_grad=False, quant_type="nf4")
    layer = layer.to("cpu")

    def weight() -> Tensor:
        found: Tensor = functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return found.flatten().clone()

    codes, before = layer.weight.data.clone(), weight()
    layer.eval()
    with torch.no_grad():
        layer(torch.randn(3, 128, dtype=torch.bfloat16))
    assert layer.weight.data.shape != codes.shape and not torch.equal(weight(), before)


# ------------------------------------------------------------------------------------------------ a whole model


def dense_twin(base: Path, form: Form, dtype: torch.dtype = torch.float32) -> tuple[Policy, Policy]:
    """A quantised model, and a plain one with the weights that it computes with."""
    packed, dense = load_model(base, dtype=dtype, quantize=form).model, load_model(base, dtype=dtype).model
    for name, weight in dequantized_weights(packed).items():
        dense.get_parameter(name).data.copy_(weight)
    return Policy(packed), Policy(dense)


def saved_shapes(policy: Policy) -> list[torch.Size]:
    """Shapes of what a forward pass keeps for the backward pass."""
    shapes: list[torch.Size] = []

    def keep(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor

    policy.model.get_input_embeddings().weight.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda each: each):
        policy(batch()).sum()
    return shapes


def batch() -> object:
    rows = [tuple(range(5, 30)), tuple(range(40, 52))]
    return pack([Features(n, row, (0.0,) * (len(row) - 3) + (1.0, 0.5, 1.0)) for n, row in enumerate(rows)])


@pytest.mark.parametrize("form", FORMS)
def test_only_linear_layers_of_the_blocks_are_held_in_codes(base: Path, form: Form) -> None:
    plain, model = load_model(base, dtype=torch.float32).model, load_model(base, dtype=torch.float32).model
    assert quantize_blocks(model, form) == len(quantized_layers(model)) == 2 * 7
    assert (form_of(plain), form_of(model)) == ("none", form)
    left = {name for name, _ in model.named_parameters()}
    assert left == {name for name, _ in plain.named_parameters() if "_proj" not in name}
    assert dequantized_weights(model).keys() | left == {name for name, _ in plain.named_parameters()}
    for name in left:
        assert torch.equal(model.get_parameter(name), plain.get_parameter(name))
    assert not any(each.requires_grad for each in model.buffers())


@pytest.mark.parametrize("choice", ["plain", "fast"])
@pytest.mark.parametrize("form", FORMS)
def test_no_dense_weight_is_kept_for_the_backward_pass(base: Path, form: Form, choice: str) -> None:
    packed, dense = dense_twin(base, form)
    weights = {each.shape for each in dequantized_weights(packed.model).values()}
    weights |= {torch.Size((inputs, outputs)) for outputs, inputs in weights}
    for policy in (packed, dense):
        use_blocks(policy.model, choice)  # type: ignore[arg-type]
    assert weights & set(saved_shapes(dense)), "the dense model does keep them"
    assert not weights & set(saved_shapes(packed))


@pytest.mark.parametrize("form", FORMS)
def test_plain_and_fast_blocks_say_what_the_dense_model_says(base: Path, form: Form) -> None:
    packed, dense = dense_twin(base, form)
    expected = dense(batch())
    torch.testing.assert_close(packed(batch()), expected, rtol=0, atol=0)
    use_blocks(packed.model, "fast")
    torch.testing.assert_close(packed(batch()), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("way", ["dense while it answers", "layer by layer"])
@pytest.mark.parametrize("form", FORMS)
def test_answers_are_those_of_the_dense_model(
    base: Path, form: Form, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, dense = dense_twin(base, form)
    if way == "layer by layer":
        monkeypatch.setattr(decode, "REORDER_UP_TO", 1000)
    before = held(packed)
    tokenizer = load_model(base, dtype=torch.float32).tokenizer
    settings = GenerateSettings(max_new_tokens=12, end_token_ids=(2,))
    prompts = [tuple(range(5, 25)), tuple(range(40, 52))]
    answers = []
    for policy in (packed, dense):
        with policy.answering() as model:
            assert isinstance(packed_rows(model), PackedRows) is (way != "layer by layer" or policy is dense)
            answers.append([each.token_ids for each in generate(model, tokenizer, prompts, settings)])
    assert answers[0] == answers[1] and any(answers[0])
    assert held(packed) == before


def test_parts_that_are_named_are_those_that_are_held() -> None:
    assert quantized._PARTS.keys() == set(FORMS)
    for form in FORMS:
        layer = QuantizedLinear(linear(8, 64), form)
        assert [name for name, _ in layer.named_buffers()] == [*quantized._PARTS[form], "wanted"]
