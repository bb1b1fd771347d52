"""Fast blocks against the plain ones, forward and backward, for every kind of layer they read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tunesmith.core.errors import TunesmithError
from tunesmith.models.blocks import Choice, FastBlock, projection_of, use_blocks
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.policy import Policy

_SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.2,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_SMALL, attention_bias=True, mlp_bias=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_SMALL, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SMALL)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_SMALL)),
}
CLOSE = {torch.float64: 5e-6, torch.float32: 2e-5}
"""Norms of the plain blocks are float32 even in a float64 model."""
ADAPTED: dict[str, dict[str, object] | None] = {"lora": {}, "dora": {"use_dora": True}, "full": None}


def batch() -> Packed:
    system = tuple(range(3, 23))
    rows = [(*system, 40, 41, 42), (*system, 50, 51, 52, 53), tuple(range(30, 47))]
    return pack([Features(n, row, (0.0,) * (len(row) - 3) + (1.0, 0.5, 1.0)) for n, row in enumerate(rows)])


def policy(name: str, dtype: torch.dtype, lora: bool, seed: int = 5, **settings: object) -> Policy:
    torch.manual_seed(seed)
    made = Policy(MODELS[name]().to(dtype))
    if lora:
        config = LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
        get_peft_model(made.model, config, autocast_adapter_dtype=False)
        for parameter_name, parameter in made.named_parameters():
            parameter.requires_grad_("lora_" in parameter_name)
            if "lora_B" in parameter_name:
                nn.init.normal_(parameter, std=0.2)
            if "lora_magnitude" in parameter_name:
                parameter.data *= 0.5 + torch.rand_like(parameter)
    return made.train()


def losses_and_gradients(made: Policy) -> tuple[Tensor, dict[str, Tensor]]:
    losses_K = made(batch())
    (losses_K * batch().weight).sum().backward()
    moving = {name: each.grad for name, each in made.named_parameters() if each.requires_grad}
    assert all(each is not None for each in moving.values()), "every moving weight has a gradient"
    gradients = {name: each.clone() for name, each in moving.items() if each is not None}
    made.zero_grad()
    return losses_K.detach(), gradients


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("kind", ADAPTED)
@pytest.mark.parametrize("name", MODELS)
def test_fast_blocks_are_the_plain_ones(name: str, kind: str, dtype: torch.dtype) -> None:
    settings = ADAPTED[kind]
    made = policy(name, dtype, settings is not None, **settings or {})
    names = [each for each, _ in made.named_parameters()]
    plain_losses, plain_gradients = losses_and_gradients(made)
    assert use_blocks(made.model, "fast") == 2
    assert [each for each, _ in made.named_parameters()] == names, "weights keep their names"
    losses, gradients = losses_and_gradients(made)
    close = CLOSE[dtype]
    torch.testing.assert_close(losses, plain_losses, rtol=close, atol=close)
    for each, plain in plain_gradients.items():
        difference = (gradients[each] - plain).norm() / plain.norm().clamp(min=1e-3)
        assert difference < close, f"{each}: {difference:.2e}"


@pytest.mark.parametrize("kind", ADAPTED)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_in_bfloat16_fast_blocks_are_as_near_to_float32_as_the_plain_ones(name: str, kind: str) -> None:
    """Over several models: of a single one, either form may be nearer by chance. The additions of the plain blocks are
    PEFT's own layers, DoRA's lengths too."""
    totals = dict.fromkeys(("plain losses", "plain gradients", "fast losses", "fast gradients"), 0.0)
    settings = ADAPTED[kind]
    for seed in range(8):
        rounded, exact = (
            policy(name, dtype, settings is not None, seed, **settings or {})
            for dtype in (torch.bfloat16, torch.float32)
        )
        exact.load_state_dict({key: each.float() for key, each in rounded.state_dict().items()})
        true_losses, true_gradients = losses_and_gradients(exact)
        for form in ("plain", "fast"):
            use_blocks(rounded.model, form)
            losses, gradients = losses_and_gradients(rounded)
            totals[f"{form} losses"] += float((losses - true_losses).abs().mean())
            totals[f"{form} gradients"] += sum(float((gradients[k] - v).norm()) for k, v in true_gradients.items())
    assert totals["fast losses"] < 1.3 * totals["plain losses"]
    assert totals["fast gradients"] < 1.2 * totals["plain gradients"]


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_in_bfloat16_gradients_of_lengths_are_as_near_to_float32_as_those_of_peft(name: str) -> None:
    """A length's gradient is a sum over all tokens of what bfloat16 has rounded, each to 2^-9 of its size: some ten
    roundings on the way through two blocks are a few hundredths of the whole, in either form."""
    errors: dict[Choice, float] = {"plain": 0.0, "fast": 0.0}
    size = 0.0
    for seed in range(8):
        rounded, exact = (policy(name, each, True, seed, use_dora=True) for each in (torch.bfloat16, torch.float32))
        exact.load_state_dict({key: each.float() for key, each in rounded.state_dict().items()})
        _, true_gradients = losses_and_gradients(exact)
        lengths = [key for key in true_gradients if "magnitude" in key]
        assert len(lengths) == 2 * 7, "of every linear layer"
        size += sum(float(true_gradients[key].norm()) for key in lengths)
        for form in errors:
            use_blocks(rounded.model, form)
            _, gradients = losses_and_gradients(rounded)
            errors[form] += sum(float((gradients[key] - true_gradients[key]).norm()) for key in lengths)
    assert errors["fast"] < 1.2 * errors["plain"] and errors["fast"] < 0.06 * size


def test_a_block_with_lengths_keeps_two_tensors_of_its_gate() -> None:
    made = policy("qwen2", torch.float32, True, use_dora=True)
    use_blocks(made.model, "fast")
    kept: dict[int, tuple[int, ...]] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tuple(tensor.shape)
        return tensor

    tokens = batch().token_ids.numel()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses_K = made(batch())
    inner = [shape for shape in kept.values() if shape == (tokens, _SMALL["intermediate_size"])]
    assert losses_K.requires_grad and len(inner) == 3, "gate, up and their product, of the one block with all tokens"


def test_checkpointed_activations_give_the_same_gradients() -> None:
    made = policy("llama", torch.float32, lora=True)
    use_blocks(made.model, "fast")
    _, expected = losses_and_gradients(made)
    made.model.activation_checkpointing_enable({"use_reentrant": False})
    _, gradients = losses_and_gradients(made)
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize(
    "settings",
    [{"lora_dropout": 0.5}, {"lora_dropout": 0.5, "use_dora": True}, {"lora_bias": True}],
    ids=["dropout", "dropout, DoRA", "bias"],
)
def test_layers_of_other_kinds_go_the_plain_way(settings: dict[str, object]) -> None:
    made = policy("llama", torch.float32, lora=True, **settings).eval()
    expected = made(batch())
    use_blocks(made.model, "fast")
    assert projection_of(made.model.model.layers[0].mlp.up_proj) is None
    torch.testing.assert_close(made(batch()), expected)


def test_a_disabled_adapter_is_no_part_of_the_answer() -> None:
    made = policy("llama", torch.float32, lora=True)
    use_blocks(made.model, "fast")
    with_adapter = made(batch()).detach()
    for module in made.modules():
        if isinstance(module, LoraLayer):
            module.enable_adapters(False)
    bare = made(batch()).detach()
    plain = policy("llama", torch.float32, lora=False)
    torch.testing.assert_close(bare, plain(batch()).detach(), rtol=2e-5, atol=2e-5)
    assert not torch.allclose(bare, with_adapter, atol=1e-2)


def test_padded_batches_take_the_plain_blocks() -> None:
    made = policy("qwen2", torch.float32, lora=True).eval()
    ids, mask = torch.tensor([[0, 5, 6, 7], [8, 9, 10, 11]]), torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    with made.answering() as model:
        expected = model(input_ids=ids, attention_mask=mask).logits
    use_blocks(made.model, "fast")
    with made.answering() as model:
        torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits, expected)


def test_where_fast_blocks_do_not_fit() -> None:
    gemma = GemmaForCausalLM(GemmaConfig(**_SMALL))
    assert use_blocks(gemma, "auto") == 0
    with pytest.raises(TunesmithError, match="no_fast_blocks"):
        use_blocks(gemma, "fast")
    llama = MODELS["llama"]()
    assert use_blocks(llama, "plain") == 0
    assert not any(isinstance(each, FastBlock) for each in llama.modules())
