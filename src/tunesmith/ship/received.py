"""Stages in a row: what one ended with, as what the next stands on.

    <stage>/merged/                       the stage's best change merged into what it stood on: a model folder
    <stage>/best/masters.safetensors      the best change as the optimizer held it, where the next stage trains it on

`recipe/chain.py` says which of the two it is. The merged weights are stored in the number format that training reads,
so the next stage begins, bit for bit, as the model that the stage's best checkpoint is evaluated as.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import MANIFEST, new_folder, read_json, sha256_file, verify_folder, write_json
from tunesmith.core.run import Run
from tunesmith.models.heads import TASK_EMBEDDINGS, Head, head_names
from tunesmith.models.load import BaseFolder, load_with_head, weights_sha256
from tunesmith.models.weights import read_tensors, read_weights
from tunesmith.recipe.chain import after, before, data_of, has_same_head, merged_before, start_of
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.ship.formats.safetensors import write_safetensors
from tunesmith.ship.merge import merge
from tunesmith.train.build import DTYPES, OWN
from tunesmith.train.checkpoint import BEST, MASTERS

MERGED = "merged"
_OF_A_HEAD = ("id2label", "label2id", "problem_type")
"""Keys of a configuration that a head has left behind."""


def received_base(run: Run, recipe: Recipe, stage: StageSpec, base: BaseFolder) -> BaseFolder:
    """What the change of a stage is put on: the run's base, or that with the changes before merged into it.

    Its weights, their hash and its name are then others; licence and origin stay those of the base.
    Errors: core.missing_file, core.hash_differs.
    """
    merged = merged_before(recipe, stage)
    if merged is None:
        return base
    folder = run.path / merged.name / MERGED
    run.check_files(f"{merged.name}/{MERGED}")
    if not (folder / MANIFEST).is_file():
        raise TunesmithError("core.missing_file", path=str(folder / MANIFEST))
    return replace(base, path=folder, name=f"{base.name} + {merged.name}", sha256=weights_sha256(folder))


def begin_of(run: Run, recipe: Recipe, stage: StageSpec) -> tuple[dict[str, Tensor], str]:
    """The masters that a stage trains on and the hash of their file; nothing where it begins a change of its own.

    What the objective before had of its own (a classifier of domains) is left behind: it was no part of the change.

    Errors: core.missing_file, core.hash_differs, models.broken_weights.
    """
    earlier = before(recipe, stage)
    if earlier is None or start_of(recipe, stage) != "continued":
        return {}, ""
    folder = run.path / earlier.name / BEST
    run.check_files(f"{earlier.name}/{BEST}")
    verify_folder(folder)
    masters = read_tensors(folder / MASTERS)
    return {name: each for name, each in masters.items() if not name.startswith(OWN)}, sha256_file(folder / MASTERS)


def hand_on(run: Run, recipe: Recipe, stage: StageSpec, base: BaseFolder, head: Head | None, emitter: Emitter) -> None:
    """Write what the next stage stands on, where that is this one's change merged, and say how it goes on.

    What an earlier call has written stays.

    Args:
        base: the run's base.
        head: the task head of this stage.

    Errors: those of `merge` and `new_folder`.
    """
    later = after(recipe, stage)
    if later is None:
        return
    if start_of(recipe, later) == "continued":
        emitter.emit("note", code="train.continued", stage=later.name, earlier=stage.name)
        return
    folder = run.path / stage.name / MERGED
    if not (folder / MANIFEST).is_file() or not run.recorded(folder / MANIFEST):
        write_merged(folder, run, recipe, stage, base, head)
        run.record_files(folder / MANIFEST)
    if head is not None and not has_same_head(recipe, stage, later):
        emitter.emit("note", code="train.head_dropped", stage=stage.name, task=head.task, labels=len(head.labels))
    emitter.emit("note", code="train.handed_on", stage=stage.name, later=later.name)


def write_merged(folder: Path, run: Run, recipe: Recipe, stage: StageSpec, base: BaseFolder, head: Head | None) -> None:
    """The model that a stage ended with as a folder in the Hugging Face layout, without a head that nobody needs."""
    stands_on, change = received_base(run, recipe, stage, base), run.path / stage.name / BEST
    later = after(recipe, stage)
    keeps_head = head is not None and later is not None and has_same_head(recipe, stage, later)
    tensors = merge(stands_on, change, head=head).tensors
    if head is not None and not keeps_head:
        answers_in_words = later is not None and data_of(recipe, later).task == "chat"
        tensors = _without_head(stands_on, head, tensors, answers_in_words=answers_in_words)
    dtype = DTYPES[recipe.model.dtype]
    facts = {"stage": stage.name, "base_sha256": stands_on.sha256, "change": sha256_file(change / MANIFEST)}
    needed = sum(each.numel() for each in tensors.values()) * torch.empty(0, dtype=dtype).element_size()
    with new_folder(folder, needed, kind=MERGED, **facts) as aside:
        kept = head if keeps_head else None
        write_safetensors(aside, tensors, stands_on.path, stands_on.path, dtype, kept)
        if kept is None:
            config = read_json(aside / "config.json")
            write_json(aside / "config.json", {key: each for key, each in config.items() if key not in _OF_A_HEAD})


def _without_head(
    base: BaseFolder, head: Head, tensors: Mapping[str, Tensor], *, answers_in_words: bool
) -> Mapping[str, Tensor]:
    """The body alone; where the next stage answers in words, with the base's own head for these."""
    of_head = set(head_names(load_with_head(base.path, head, dtype=torch.float32).model))
    body = {name: each for name, each in tensors.items() if name not in of_head and f".{TASK_EMBEDDINGS}." not in name}
    return {**read_weights(base.path), **body} if answers_in_words else body
