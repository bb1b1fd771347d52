"""Answers that part from the evaluated model's at a near tie, and are its own but for that.

Shape letters: K positions of an answer, V vocabulary.

Where two tokens are almost equally likely, what else stands in a batch, or the last bit of a number format, decides
between them. On SmolLM2-135M of 200 answers 6 to 10 were other ones in Q8_0 from try to try, 3 to 5 of them what the
evaluated model itself says in float32; the first other token of 25 such answers had at least 0.57 of the best one's
probability. Their score was lower every time (by 0.5 to 1.5 points), so this is not chance alone: a recipe has to ask
for it (`ship.parity.near_ties_apart`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from tunesmith.ship.evaluated import Reader, Turn

NEAR = 0.5
"""Share of the best token's probability that makes a token a near tie. Chosen after the measurement above, on that one
model."""


def near_ties(evaluated: nn.Module, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> bool:
    """Whether every token of every answer to a prompt is the evaluated model's best one or a near tie.

    An artefact that leaves at a near tie and then goes astray has tokens that are neither, and so has an answer that
    is said to be the evaluated model's and is not. Of no tokens nothing is known: False.
    """
    if not all(answers):
        return False
    turns = [Turn(tuple(prompt), tuple(answer)) for answer in answers]
    reader = Reader(evaluated, turns)
    return all(_is_near(reader, turn) for turn in turns)


def _is_near(reader: Reader, turn: Turn) -> bool:
    logits_KV = reader.logits(turn)
    said_K = logits_KV[range(len(turn.answer)), list(turn.answer)]
    return bool((logits_KV.amax(-1) - said_K <= -math.log(NEAR)).all())
