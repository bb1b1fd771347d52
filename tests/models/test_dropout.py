"""Dropout in packed encoders: transformers' own numbers, in the same places, and never where it is off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from class_rows import random_features
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from tunesmith.core.errors import TunesmithError
from tunesmith.models import encoder_attention
from tunesmith.models.blocks import blocks_of, use_blocks
from tunesmith.models.dropout import drops_below, set_dropout
from tunesmith.models.encoder_blocks import LastEncoderBlock
from tunesmith.models.heads import ClassPolicy, Head, HeadTask
from tunesmith.models.load import load_with_head
from tunesmith.models.packed import pack
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder


def encoder(architecture: str, task: HeadTask) -> PreTrainedModel:
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "classifier_dropout": 0.3}
    config = AutoConfig.for_model(architecture, **settings, num_labels=3, attention_probs_dropout_prob=0.2)
    kind = AutoModelForSequenceClassification if task == "text_class" else AutoModelForTokenClassification
    torch.manual_seed(1)
    model: PreTrainedModel = kind.from_config(config).double().train()
    return model


def gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("share", ["own", 0.4, None])
@pytest.mark.parametrize("task", ["text_class", "token_class"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_the_same_draws_give_what_transformers_gives(architecture: str, task: HeadTask, share: float | None) -> None:
    model = encoder(architecture, task)
    set_dropout(model, share)
    (item,) = random_features(task, True, (16,))  # as long as its band, so both draw masks of the same shapes
    batch = pack([item], share=False)
    model.set_attn_implementation("eager")
    torch.manual_seed(5)
    scores = model(input_ids=torch.tensor([item.token_ids])).logits.reshape(-1, 3)
    wanted_loss = cross_entropy(scores, batch.target, reduction="sum")
    wanted = gradients(model, wanted_loss)
    policy = ClassPolicy(model)
    torch.manual_seed(5)
    loss = policy(batch).sum()
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-10, atol=1e-10)
    for name, each in gradients(model, loss).items():
        torch.testing.assert_close(each, wanted[name], rtol=1e-8, atol=1e-10, msg=name)
    torch.manual_seed(6)
    assert (policy(batch).sum() == loss) == (share is None)


def test_the_fast_last_block_drops_in_the_same_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dropout becomes a factor of its own, so that one left out, or met twice, shows."""
    model = encoder("bert", "text_class")
    factors = {name: 1 + 0.1 * place for place, name in enumerate(("attention.output.dropout", "output.dropout"))}
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            factor = next((each for end, each in factors.items() if name.endswith(end)), 1.3)
            module.register_forward_hook(lambda _module, inputs, _output, factor=factor: inputs[0] * factor)
    monkeypatch.setattr(encoder_attention, "drop", lambda shares, share: shares * (1 + share))
    policy = ClassPolicy(model)
    batch = pack(random_features("text_class", True, (5, 16, 1, 9)), share=False)
    plain = policy.logits(batch)
    assert use_blocks(model, "fast") and isinstance(blocks_of(model)[-1], LastEncoderBlock)
    torch.testing.assert_close(policy.logits(batch), plain, rtol=1e-10, atol=1e-10)
    policy.eval()
    assert not torch.allclose(policy.logits(batch), plain), "attention drops nothing in evaluation"


def test_shares_of_attention_are_dropped_and_scaled_up() -> None:
    torch.manual_seed(2)
    scores = torch.zeros(40, 5, 50, 50, dtype=torch.float64)
    shares = encoder_attention._shares(scores, 0.25)
    assert set((shares * 50 * 0.75).unique().round(decimals=9).tolist()) == {0.0, 1.0}
    assert abs(float((shares == 0).double().mean()) - 0.25) < 0.005
    assert torch.equal(encoder_attention._shares(scores, 0.0), torch.softmax(scores, -1))


def test_own_shares_are_those_of_the_configuration(tmp_path: Path) -> None:
    head, base = Head("text_class", ("a", "b")), tiny_encoder(tmp_path / "base")
    config = json.loads((base / "config.json").read_text("utf-8"))
    config |= {"hidden_dropout_prob": 0.15, "attention_probs_dropout_prob": 0.05}
    (base / "config.json").write_text(json.dumps(config), "utf-8")

    def shares(dropout: float | None) -> set[float]:
        model = load_with_head(base, head, dtype=torch.float32, dropout=dropout).model
        return {each.p for each in model.modules() if isinstance(each, nn.Dropout)}

    assert shares(None) == {0.0} and shares(0.2) == {0.2}
    assert shares("own") == {0.15, 0.05}  # type: ignore[arg-type]


def test_where_nothing_would_be_dropped_the_setting_is_refused(tmp_path: Path) -> None:
    head, decoder = Head("text_class", ("a", "b")), tiny_chat_model(tmp_path / "decoder")
    with pytest.raises(TunesmithError, match=r"models\.no_dropout"):
        load_with_head(decoder, head, dtype=torch.float32, dropout=0.1)
    model = encoder("bert", "token_class")
    set_dropout(model, None)
    with pytest.raises(TunesmithError, match=r"models\.no_dropout"):
        set_dropout(model, "own")


def test_what_lies_below_is_told_apart() -> None:
    model = encoder("bert", "token_class")
    set_dropout(model, "own")
    assert drops_below(model, 1)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and ("embeddings" in name or ".layer.0." in name):
            module.p = 0.0
    assert not drops_below(model, 1) and drops_below(model, 2)
