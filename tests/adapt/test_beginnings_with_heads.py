"""Prefix tuning and P-Tuning v2 with a task head, on encoders and decoders: PEFT's numbers, forward and backward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from class_rows import random_features
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from tunesmith.adapt.attach import attach
from tunesmith.adapt.saved import kind_of, put_on
from tunesmith.core.errors import TunesmithError
from tunesmith.models.beginning import beginning_of
from tunesmith.models.blocks import use_blocks
from tunesmith.models.heads import ClassPolicy, Head, HeadTask, draw_head
from tunesmith.models.load import Loaded, load_with_head
from tunesmith.models.packed import Features, pack
from tunesmith.models.sites import is_encoder
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.recipe.specs.beginnings import BeginningSpec, PrefixSpec, PromptSpec, PTuningSpec

pytestmark = pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path`")

LABELS = ("a", "b", "c")
LENGTHS = (5, 3, 17, 8, 2, 30)
BODIES = {"encoder": tiny_encoder, "decoder": tiny_chat_model}
PREFIX = PrefixSpec(num_virtual_tokens=4)


def rows(task: HeadTask, encoder: bool) -> list[Features]:
    return random_features(task, encoder, LENGTHS)


def with_head(folder: Path, task: HeadTask) -> Loaded:
    loaded = load_with_head(folder, Head(task, LABELS), dtype=torch.float64)
    draw_head(loaded.model, loaded.new, 5)
    return loaded


def attached_to(loaded: Loaded, spec: BeginningSpec, folder: Path) -> ClassPolicy:
    """A policy with a beginning and a new head that train, saved in a folder."""
    policy = ClassPolicy(loaded.model)
    new = frozenset(f"model.{name}" for name in loaded.new)
    attached = attach(policy, spec, seed=3, base_name="base", new=new)
    assert attached.trainable == new | {n for n, _ in policy.named_parameters() if n.startswith("model.beginning.")}
    use_blocks(policy.model, "auto")
    attached.save(folder, attached.delta())
    return policy


def scores_of(model: torch.nn.Module, items: list[Features]) -> Tensor:
    """Row after row through the plain forward."""
    found = []
    for item in items:
        ids = torch.tensor([item.token_ids])
        scores = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].reshape(-1, 3)
        found.append(scores[-len(item.token_ids) :])  # PEFT gives virtual tokens classes too
    return torch.cat(found)


@pytest.mark.parametrize("task", ["text_class", "token_class"])
@pytest.mark.parametrize(
    ("body", "spec"),
    [("encoder", PREFIX), ("decoder", PREFIX), ("decoder", PromptSpec(num_virtual_tokens=4))],
    ids=["encoder-prefix", "decoder-prefix", "decoder-prompt"],
)
def test_packed_rows_have_pefts_scores_and_gradients(
    body: str, spec: BeginningSpec, task: HeadTask, tmp_path: Path
) -> None:
    folder = BODIES[body](tmp_path / "base", spread=0.1)
    loaded = with_head(folder, task)
    items = rows(task, is_encoder(loaded.model))
    change = tmp_path / "change"
    change.mkdir()
    policy = attached_to(loaded, spec, change)
    batch = pack(items, share=not is_encoder(loaded.model))
    scores_KC = policy.logits(batch)
    policy(batch).sum().backward()

    # in training form, from the configuration that we write
    stated = json.loads((change / "adapter_config.json").read_text("utf-8"))
    kind = PrefixTuningConfig if isinstance(spec, PrefixSpec) else PromptTuningConfig
    values = {**stated, "inference_mode": False, "prompt_tuning_init": "RANDOM", "base_model_name_or_path": None}
    values = {
        name: value for name, value in values.items() if name in kind.__dataclass_fields__ and name != "peft_type"
    }
    plain = with_head(folder, task)
    wrapped = get_peft_model(plain.model, kind(**values))
    encoder = wrapped.prompt_encoder["default"].double()
    beginning = beginning_of(policy.model)
    assert beginning is not None
    (numbers_PN,) = beginning.parameters()
    encoder.embedding.weight.data.copy_(numbers_PN.detach())
    wanted_KC = scores_of(wrapped.eval(), items)
    cross_entropy(wanted_KC, batch.target, reduction="sum").backward()
    torch.testing.assert_close(scores_KC, wanted_KC, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(numbers_PN.grad, encoder.embedding.weight.grad, rtol=1e-5, atol=1e-6)

    # and as any tool reads it, and as we do
    fresh = with_head(folder, task)
    read = PeftModel.from_pretrained(fresh.model.float(), str(change)).eval()
    torch.testing.assert_close(scores_of(read, items), wanted_KC.float(), rtol=1e-4, atol=1e-4)
    again = load_with_head(folder, Head(task, LABELS), dtype=torch.float64)
    assert kind_of(change).name == spec.kind
    put_on(again.model, change, again.new)
    torch.testing.assert_close(ClassPolicy(again.model).logits(batch), scores_KC, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spec", [PromptSpec(), PTuningSpec()])
def test_virtual_tokens_on_an_encoder_are_refused(spec: BeginningSpec, tmp_path: Path) -> None:
    policy = ClassPolicy(with_head(tiny_encoder(tmp_path / "base"), "text_class").model)
    with pytest.raises(TunesmithError, match="beginning_both_ways"):
        attach(policy, spec, seed=1, base_name="base")
