"""An answer that leaves the evaluated model's at a near tie is its own; one that goes astray is not."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.ship.near_ties import NEAR, near_ties

PROMPT = (7, 8)
END = 0


class Chooses(nn.Module):
    """After 8 it finds 1 and 2 about as likely, `gap` nats apart; after 1 and 2 the end, after 3 nothing but 4."""

    def __init__(self, gap: float) -> None:
        super().__init__()
        self.config = SimpleNamespace(layer_types=["sliding_attention"])  # which are read without a shared beginning
        logits_VV = torch.zeros(9, 9)
        logits_VV[8, 1], logits_VV[8, 2] = 9.0, 9.0 - gap
        logits_VV[1, END] = logits_VV[2, END] = logits_VV[3, 4] = 9.0
        self.after = nn.Parameter(logits_VV)

    def forward(self, input_ids: Tensor, logits_to_keep: int, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.after[input_ids][:, -logits_to_keep:])


def test_both_sides_of_a_near_tie() -> None:
    gap = -math.log(NEAR)
    assert near_ties(Chooses(gap - 0.01), PROMPT, [(1, END), (2, END)])
    assert not near_ties(Chooses(gap + 0.01), PROMPT, [(1, END), (2, END)])


def test_what_goes_astray_behind_a_near_tie() -> None:
    assert not near_ties(Chooses(0.1), PROMPT, [(1, END), (2, 5)])
    assert not near_ties(Chooses(0.1), PROMPT, [(1, END), (2, 3, END)])


def test_an_answer_that_the_evaluated_model_did_not_give() -> None:
    assert not near_ties(Chooses(0.1), PROMPT, [(3, 4), (2, END)])


def test_of_no_answer_nothing_is_known() -> None:
    assert not near_ties(Chooses(0.1), PROMPT, [(), (2, END)])
    assert not near_ties(Chooses(0.1), PROMPT, [(1, END), ()])
