"""A subset: exactly the tensors that were named move, and they alone are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fits import local, make_job
from safetensors.torch import load_file

from tunesmith.adapt.subset import attach_subset
from tunesmith.core.errors import TunesmithError
from tunesmith.models.heads import Head
from tunesmith.models.load import load_with_head, resolve_base
from tunesmith.models.side_by_side import policy_of
from tunesmith.models.tiny import tiny_encoder
from tunesmith.models.weights import read_weights
from tunesmith.recipe.specs.adapt import SubsetSpec
from tunesmith.ship.evaluated import load_evaluated
from tunesmith.ship.merge import merge
from tunesmith.train.checkpoint import checkpoint_paths
from tunesmith.train.loop import fit

LAST_BLOCK = "model.layers.1."
CHOICES = {
    "the last block": ({"first_layer": -1}, lambda name: LAST_BLOCK in name or name == "model.norm.weight"),
    "attention": ({"parts": ["attention"]}, lambda name: "self_attn" in name),
    "norms of the last block": (
        {"parts": ["norm"], "first_layer": 1},
        lambda name: "norm" in name and ".0." not in name,
    ),
    "the head": ({"parts": ["head"]}, lambda name: "embed_tokens" in name),
    "a pattern": ({"parameters": ["*.0.mlp.up_proj.weight"]}, lambda name: name == "model.layers.0.mlp.up_proj.weight"),
    "a part and a pattern": (
        {"parts": ["norm"], "first_layer": 1, "parameters": ["model.embed_tokens.*"]},
        lambda name: ("norm" in name and ".0." not in name) or "embed_tokens" in name,
    ),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_what_was_named_moves_and_nothing_else(base: Path, tmp_path: Path, choice: str) -> None:
    settings, moves = CHOICES[choice]
    job = make_job(base, tmp_path / "fit", local(), adapt={"kind": "subset", **settings})
    fit(job)
    before = read_weights(base)
    named = {name.removeprefix("model."): each.detach() for name, each in job.policy.named_parameters()}
    moved = {name for name, each in named.items() if not torch.equal(each, before[name])}
    assert moved == {name for name in before if moves(name)} != set()
    change = checkpoint_paths(tmp_path / "fit")[-1]
    written = load_file(change / "subset_model.safetensors")
    assert written.keys() == moved
    assert all(torch.equal(written[name], named[name]) for name in moved)
    folder = resolve_base(str(base))
    merged = merge(folder, change)
    evaluated = dict(load_evaluated(folder, change).named_parameters())
    assert set(merged.changed) == moved and merged.kind == "subset"
    assert all(torch.equal(merged.tensors[name], named[name]) for name in before)
    assert all(torch.equal(evaluated[name], named[name]) for name in before)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"parts": ["bias"]}, "adapt.nothing_moves"),
        ({"first_layer": 2}, "adapt.no_such_layer"),
        ({"first_layer": -3}, "adapt.no_such_layer"),
        ({"parameters": ["model.layers.7.*"]}, "adapt.no_such_parameter"),
    ],
)
def test_what_the_model_does_not_have_is_refused(
    base: Path, tmp_path: Path, settings: dict[str, object], code: str
) -> None:
    with pytest.raises(TunesmithError) as error:
        make_job(base, tmp_path / "fit", local(), adapt={"kind": "subset", **settings})
    assert error.value.code == code


def test_the_last_block_of_an_encoder_leaves_the_norm_of_the_embedding(tmp_path: Path) -> None:
    """It lies below all blocks: nothing flows back to it."""
    head = Head("text_class", ("a", "b"))
    loaded = load_with_head(tiny_encoder(tmp_path / "encoder"), head, dtype=torch.float32)
    policy = policy_of(loaded.model, head)
    for settings in ({"first_layer": -1}, {"parts": ["norm"], "first_layer": -1}):
        names = attach_subset(policy, SubsetSpec(**settings), "base").trainable
        assert names and not any(".embeddings." in name or ".layer.0." in name for name in names)
    names = attach_subset(policy, SubsetSpec(parts=["norm"]), "base").trainable
    assert {"model.bert.embeddings.LayerNorm.weight", "model.bert.embeddings.LayerNorm.bias"} <= names
