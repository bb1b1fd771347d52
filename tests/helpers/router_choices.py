"""Which experts a step's passes choose: when they are read beforehand, and when they are run."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tunesmith.models.experts import watching_routers
from tunesmith.models.packed import Packed
from tunesmith.objectives.balance import Balanced
from tunesmith.train.loop import Job

Choices = dict[int, list[int]]
"""Of one pass: layer, and the expert of every token in turn."""


def watch_choices(job: Job) -> dict[str, list[Choices]]:
    """What `look` and `loss` of the job's balance will see, pass by pass, with additions that are not zero: additions
    of zero would hide what dropout takes."""
    with torch.no_grad():
        for name, each in job.policy.named_parameters():
            if "lora_B" in name:
                job.optimizer.masters[name].copy_(each.add_(0.3))
    judge = job.objective
    assert isinstance(judge, Balanced)
    chosen: dict[str, list[Choices]] = {"look": [], "loss": []}

    def watched(kind: str) -> Callable[[torch.nn.Module, Packed], object]:
        plain = getattr(judge, kind)

        def call(policy: torch.nn.Module, batch: Packed) -> object:
            said: Choices = {}
            with watching_routers(policy, lambda layer, _, choices: said.update({layer: choices.flatten().tolist()})):
                found: object = plain(policy, batch)
            chosen[kind].append(said)
            return found

        return call

    judge.look, judge.loss = watched("look"), watched("loss")  # type: ignore[assignment, method-assign]
    return chosen
