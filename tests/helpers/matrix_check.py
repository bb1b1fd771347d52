"""What a point of the matrix promises: it is refused by its code, or it trains and keeps every promise below.

One function a promise; each takes what it needs and asserts. There is no third way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from faults_training import Watch, bytes_of, digest
from matrix_axes import ADAPTS, AIMS, Point, codes
from matrix_ground import Ground
from torch import Tensor, nn

from tunesmith.adapt.saved import kind_of, put_on
from tunesmith.compat.check import check
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_hashes, read_json
from tunesmith.models.load import Loaded
from tunesmith.models.side_by_side import policy_of
from tunesmith.plan.add_ons import domain_classifier_numbers
from tunesmith.plan.sizes import size_from_config, trained_parameters
from tunesmith.runtime.base import Runtime
from tunesmith.ship.merge import merge_into
from tunesmith.train.build import OWN
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import Job, fit

PAIR = "pair"
"""The result of a point that kept all promises of this file."""
_HEAD = re.compile(r"^model\.(classifier|score)\.|\.task_embeddings\.")
_SECONDS = "state.json"
"""The one file of a checkpoint that holds a duration."""


def check_point(point: Point, bases: Path, folder: Path, runtime: Runtime) -> str:
    """The result of a point on a runtime of its kind: `PAIR`, or the code that refused it."""
    ground, expected = Ground(point, bases), codes(point)
    try:
        check(ground.recipe)
        watch = Watch()
        job = watch.watch(ground.job(folder / "whole", runtime, watch.emitter))
    except TunesmithError as error:
        assert error.code in expected, f"{point} is refused by {error.code}: {error.facts}"
        assert not checkpoint_paths(folder / "whole")
        return error.code
    assert not expected, f"{point} should be refused by {expected}"
    trained = train_ground(ground, job, folder / "whole")
    loss_falls(trained)
    named_tensors_move(trained)
    count_is_the_formulas(trained)
    terms_are_told(trained, watch)
    ranks_hold_the_same(trained, runtime)
    same_bytes_when_broken_off(trained, folder, runtime)
    if runtime.rank == 0:
        change_is_put_on_again(trained)
        change_is_merged(trained)
    runtime.barrier()
    return PAIR


@dataclass(frozen=True)
class Trained:
    """A fit that has ended: what it was before and after, by name, and where its newest checkpoint lies."""

    ground: Ground
    job: Job
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    loss_before: float
    loss_after: float
    checkpoint: Path

    @property
    def policy(self) -> nn.Module:
        """The policy without what shares its gradients."""
        return getattr(self.job.policy, "module", self.job.policy)


def train_ground(ground: Ground, job: Job, folder: Path) -> Trained:
    """Run a fit to its end and keep what it was before."""
    policy = getattr(job.policy, "module", job.policy)
    loss_before, before = job.validate()["loss"], _everything(policy)
    fit(job)
    after = _everything(policy)
    return Trained(ground, job, before, after, loss_before, job.validate()["loss"], checkpoint_paths(folder)[-1])


def _everything(policy: nn.Module) -> dict[str, bytes]:
    """The bytes of every parameter and of every buffer that belongs to the weights."""
    kept = policy.state_dict().keys()
    buffers = {name: each for name, each in policy.named_buffers() if name in kept}
    return {name: bytes_of(each) for name, each in {**dict(policy.named_parameters()), **buffers}.items()}


def loss_falls(trained: Trained) -> None:
    """The objective's own loss on the training rows, without dropout, is lower in the end."""
    assert trained.loss_after < trained.loss_before, (trained.loss_before, trained.loss_after)


def named_tensors_move(trained: Trained) -> None:
    """What the table of the axis names has changed, and nothing else by a bit."""
    point = trained.ground.point
    pattern = re.compile(ADAPTS[point.adapt].moves)
    named = {
        name
        for name, _ in trained.policy.named_parameters()
        if pattern.search(name) or name.startswith(OWN) or (trained.ground.head is not None and _HEAD.search(name))
    }
    moved = {name for name, each in trained.before.items() if trained.after[name] != each}
    assert trained.before.keys() == trained.after.keys()
    assert set(trained.job.optimizer.masters) == named, sorted(set(trained.job.optimizer.masters) ^ named)
    if AIMS[point.objective].in_turns:
        assert moved and moved <= named, sorted(moved - named)
    else:
        assert moved == named, sorted(moved ^ named)


def count_is_the_formulas(trained: Trained) -> None:
    """The plan counts what trains by the dimensions alone, to the last number."""
    head, recipe = trained.ground.head, trained.ground.recipe
    config, of_tokens = read_json(trained.ground.base.path / "config.json"), recipe.data.task == "token_class"
    vectors = len(head.parts) if head and head.embeddings else 0
    size = size_from_config(config, recipe.model.quantize, len(head.labels) if head else 0, of_tokens, vectors)
    found = sum(each.numel() for each in trained.job.optimizer.masters.values())
    stage = recipe.stages[0]
    stated = trained_parameters(size, stage.adapt) + domain_classifier_numbers(size, stage)
    assert found == stated, (found, stated)


def terms_are_told(trained: Trained, watch: Watch) -> None:
    """Every step tells the terms of the objective and of the penalties; those that hold something begin at nothing."""
    aim = AIMS[trained.ground.point.objective]
    for term in aim.terms:
        told = [float(str(value)) for value in watch.of("step", term)]
        assert len(told) == trained.job.total_steps and all(value >= 0 for value in told), (term, told)
        assert told[0] == 0 or term not in aim.from_zero, (term, told)
        assert any(told), term


def ranks_hold_the_same(trained: Trained, runtime: Runtime) -> None:
    """Weights, masters and optimizer have the same bytes on every rank."""
    number = float(int(digest(trained.job)[:12], 16))
    assert runtime.sum([number]) == [number * runtime.size]


def same_bytes_when_broken_off(trained: Trained, folder: Path, runtime: Runtime) -> None:
    """A fit that stops after two steps and goes on in a new process's state ends with the same bytes."""
    for until in (2, None):
        watch = Watch()
        fit(trained.ground.job(folder / "broken", runtime, watch.emitter), until=until)
    ends = [folder_hashes(path) for path in (trained.checkpoint, checkpoint_paths(folder / "broken")[-1])]
    for each in ends:
        each.pop(_SECONDS)
    assert ends[0] == ends[1], sorted(name for name in ends[0] if ends[0][name] != ends[1].get(name))


def change_is_put_on_again(trained: Trained) -> None:
    """The saved change on a fresh base, its weights those that it trained beside, scores as the trained model does."""
    loaded = trained.ground.load()
    with torch.no_grad():
        for name, weight in trained.ground.weights_beside.items():
            loaded.model.get_parameter(name).copy_(weight)
    put_on(loaded.model, trained.checkpoint, loaded.new)
    _same_scores(trained, loaded)


def change_is_merged(trained: Trained) -> None:
    """What can be merged gives the same scores as a part of the base's own weights."""
    if not kind_of(trained.checkpoint).mergeable:
        return
    ground = trained.ground
    _same_scores(trained, merge_into(ground.load(), ground.base, trained.checkpoint, ground.weights_beside))


def _same_scores(trained: Trained, loaded: Loaded) -> None:
    wanted = _scores(trained, trained.policy)
    found = _scores(trained, policy_of(loaded.model, loaded.head))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def _scores(trained: Trained, policy: nn.Module) -> Tensor:
    policy.eval()
    with torch.no_grad():
        scores: Tensor = policy.logits(trained.ground.task.pack(trained.ground.rows))
    return scores
