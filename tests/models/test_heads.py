"""Packed bodies with heads against transformers' own classes, one row at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from class_rows import random_features
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from tunesmith.core.errors import TunesmithError
from tunesmith.models.blocks import use_blocks
from tunesmith.models.dropout import set_dropout
from tunesmith.models.heads import ClassPolicy, Head, HeadTask, draw_head, head_names
from tunesmith.models.load import load_with_head
from tunesmith.models.packed import Features, pack
from tunesmith.models.sites import is_encoder
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder

LENGTHS = (5, 3, 17, 8, 1, 30)
LABELS = ("a", "b", "c")


def rows(task: HeadTask, first: bool) -> list[Features]:
    return random_features(task, first, LENGTHS)


@pytest.mark.parametrize("task", ["text_class", "token_class"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "llama", "qwen2", "qwen3"])
def test_scores_and_gradients_are_those_of_the_plain_model(architecture: str, task: HeadTask) -> None:
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
    config = AutoConfig.for_model(architecture, **settings, num_labels=3)
    kind = AutoModelForSequenceClassification if task == "text_class" else AutoModelForTokenClassification
    torch.manual_seed(1)
    model = kind.from_config(config).double()
    set_dropout(model, None)
    items = rows(task, is_encoder(model))
    batch = pack(items, share=not is_encoder(model))

    model.set_attn_implementation("sdpa")
    plain = [model(input_ids=torch.tensor([item.token_ids])).logits[0] for item in items]
    reference = torch.cat([each.reshape(-1, 3) for each in plain])
    cross_entropy(reference, batch.target, reduction="sum").backward()
    wanted = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    model.zero_grad()
    policy = ClassPolicy(model)
    torch.testing.assert_close(policy.logits(batch), reference, rtol=1e-9, atol=1e-9)
    policy(batch).sum().backward()
    assert wanted
    for name, parameter in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-8, atol=1e-9, msg=name)


def test_a_batch_trains_that_a_validation_has_seen() -> None:
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    config = AutoConfig.for_model("bert", **settings, num_attention_heads=4, pad_token_id=0, num_labels=3)
    model = AutoModelForSequenceClassification.from_config(config)
    set_dropout(model, None)
    policy, batch = ClassPolicy(model), pack(rows("text_class", first=True), share=False)
    with torch.inference_mode():
        policy(batch)
    policy(batch).sum().backward()
    assert policy.head.grad is not None


@pytest.mark.parametrize("make", [tiny_encoder, tiny_chat_model])
@pytest.mark.parametrize("blocks", ["fast", "plain"])
def test_a_row_that_is_asked_for_nothing_gives_nothing_and_reaches_everything(
    make: Callable[[Path], Path], blocks: Literal["fast", "plain"], tmp_path: Path
) -> None:
    """Where rows do not go round, a process repeats one without weight; its gradients are shared all the same."""
    loaded = load_with_head(make(tmp_path / "base"), Head("text_class", LABELS), dtype=torch.float64)
    policy = ClassPolicy(loaded.model)
    use_blocks(policy.model, blocks)
    batch = pack([Features(0, (3, 4, 5), (0.0, 0.0, 0.0), ((0,),))], share=False)
    losses = policy(batch)
    assert losses.shape == (0,)
    losses.sum().backward()
    assert all(each.grad is not None and not each.grad.any() for _, each in policy.named_parameters())


def test_several_labels_are_decisions_of_their_own(tmp_path: Path) -> None:
    loaded = load_with_head(tiny_encoder(tmp_path / "e"), Head("text_class", LABELS, several=True), dtype=torch.float64)
    items = [Features(0, (3, 4, 5), (1.0, 0.0, 0.0), ((0, 2),)), Features(1, (6, 7), (1.0, 0.0), ((),))]
    policy, batch = ClassPolicy(loaded.model, several=True), pack(items, share=False, several_of=3)
    assert batch.target.tolist() == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    scores = policy.logits(batch)
    wanted = binary_cross_entropy_with_logits(scores, batch.target.double(), reduction="none").mean(-1)
    torch.testing.assert_close(policy(batch), wanted)
    smooth = binary_cross_entropy_with_logits(scores, batch.target.double() * 0.8 + 0.1, reduction="none").mean(-1)
    torch.testing.assert_close(policy(batch, 0.2), smooth)


@pytest.mark.parametrize("make", [tiny_encoder, tiny_chat_model])
def test_a_new_head_is_drawn_by_the_seed_and_named(make: object, tmp_path: Path) -> None:
    assert callable(make)
    folder = make(tmp_path / "base")
    first, second, third = (load_with_head(folder, Head("text_class", LABELS), dtype=torch.float32) for _ in range(3))
    assert set(first.new) == set(head_names(first.model)) and first.new
    for loaded, seed in ((first, 1), (second, 1), (third, 2)):
        draw_head(loaded.model, loaded.new, seed)
    weights = [next(p for n, p in each.model.named_parameters() if n in each.new and p.ndim == 2) for each in
               (first, second, third)]  # fmt: skip
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert 0.01 < float(weights[0].detach().std()) < 0.03


def test_a_head_that_answers_other_labels_is_refused(tmp_path: Path) -> None:
    folder, head = tiny_encoder(tmp_path / "base"), Head("text_class", LABELS)
    loaded = load_with_head(folder, head, dtype=torch.float32)
    loaded.model.save_pretrained(tmp_path / "tuned")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "tuned" / name).write_bytes((folder / name).read_bytes())
    again = load_with_head(tmp_path / "tuned", head, dtype=torch.float32)
    assert again.new == ()
    with pytest.raises(TunesmithError, match=r"models\.other_labels"):
        load_with_head(tmp_path / "tuned", Head("text_class", ("a", "b", "d")), dtype=torch.float32)
    with pytest.raises(TunesmithError, match=r"models\.labels_in_other_order"):
        load_with_head(tmp_path / "tuned", Head("text_class", LABELS[::-1]), dtype=torch.float32)
