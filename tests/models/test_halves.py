"""A model in two halves gives what the whole gives, and its last block no more than is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from class_rows import as_examples, text_rows, token_rows
from fits import examples
from torch import Tensor

from tunesmith.core.types import Example
from tunesmith.models.blocks import blocks_of, use_blocks
from tunesmith.models.halves import lower_half, never_moving_blocks
from tunesmith.models.heads import ClassPolicy, Head, HeadTask, draw_head
from tunesmith.models.load import load_model, load_with_head
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.policy import Policy
from tunesmith.models.tiny import tiny_chat_model, tiny_encoder
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.classes import label_set
from tunesmith.tasks.registry import class_task_of


def classes(folder: Path, task: HeadTask, rows: list[Example]) -> tuple[ClassPolicy, Packed]:
    head = Head(task, label_set(rows))
    loaded = load_with_head(folder, head, dtype=torch.float64)
    draw_head(loaded.model, loaded.new, 1)
    made = class_task_of(folder, head, 128, folder)
    return ClassPolicy(loaded.model).eval(), made.pack([made.encode(each).features for each in rows])


def policy_and_batch(kind: str, folder: Path) -> tuple[Policy, Packed]:
    if kind == "chat":
        loaded = load_model(tiny_chat_model(folder, layers=3, spread=0.1), dtype=torch.float64)
        task = ChatTask(loaded.tokenizer, loaded.end_token_ids, 512)
        return Policy(loaded.model).eval(), pack([task.encode(each).features for each in examples(12)])
    make = tiny_encoder if kind.startswith("encoder") else tiny_chat_model
    path = make(folder, layers=3, spread=0.1)
    if kind.endswith("tokens"):
        return classes(path, "token_class", as_examples(token_rows(12)))
    return classes(path, "text_class", as_examples(text_rows(12)))


def gradients(policy: Policy, batch: Packed) -> dict[str, Tensor]:
    policy.zero_grad()
    policy(batch).sum().backward()
    return {name: each.grad.clone() for name, each in policy.named_parameters() if each.grad is not None}


KINDS = ("chat", "encoder texts", "encoder tokens", "decoder texts")


@pytest.mark.parametrize("blocks", ["plain", "auto"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_upper_half_goes_on_where_the_lower_ended(kind: str, blocks: str, tmp_path: Path) -> None:
    policy, batch = policy_and_batch(kind, tmp_path / "base")
    use_blocks(policy.model, blocks)  # type: ignore[arg-type]
    for place, block in enumerate(blocks_of(policy.model)):
        block.requires_grad_(place == 2)
    policy.model.get_input_embeddings().requires_grad_(False)
    whole, wanted = policy(batch).detach(), gradients(policy, batch)
    with torch.no_grad():
        below = lower_half(policy.model, batch, policy.positions(batch.position_ids), 2)
    policy.blocks_kept = 2
    split = Packed(**{**vars(batch), "below": below})
    torch.testing.assert_close(policy(split).detach(), whole, rtol=1e-12, atol=1e-12)
    found = gradients(policy, split)
    upper = {name for name in wanted if ".2." in name or "layer" not in name}
    assert {name for name in found if ".2." in name} == {name for name in upper if ".2." in name} != set()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-10, msg=name)


def test_the_last_encoder_block_gives_only_what_is_asked_for(tmp_path: Path) -> None:
    policy, batch = policy_and_batch("encoder texts", tmp_path / "base")
    plain, wanted = policy(batch).detach(), gradients(policy, batch)
    assert use_blocks(policy.model, "auto") == 1
    torch.testing.assert_close(policy(batch).detach(), plain, rtol=1e-12, atol=1e-12)
    found = gradients(policy, batch)
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-9, atol=1e-10, msg=name)
    two = [Features(0, (3, 4, 5), (1.0, 1.0, 0.0), ((0,), (1,))), Features(1, (6, 7), (0.0, 0.0), ())]
    assert policy.logits(pack(two, share=False)).shape[0] == 2, "places that are not one a document"


def test_what_may_move_decides_where_a_model_is_split(tmp_path: Path) -> None:
    encoder, _ = policy_and_batch("encoder texts", tmp_path / "encoder")
    names = [name for name, _ in encoder.model.named_parameters()]
    last = [name for name in names if ".layer.2." in name]
    head = [name for name in names if name.startswith("classifier")]
    assert never_moving_blocks(encoder.model, last + head) == 2
    assert never_moving_blocks(encoder.model, head) == 3
    assert never_moving_blocks(encoder.model, [*last, "bert.embeddings.LayerNorm.weight"]) == 0
    assert never_moving_blocks(encoder.model, [*head, "bert.embeddings.word_embeddings.weight"]) == 0
    assert never_moving_blocks(encoder.model, [*head, "bert.encoder.layer.0.attention.self.query.bias"]) == 0
    assert never_moving_blocks(encoder.model, ["something.else"]) == 0
