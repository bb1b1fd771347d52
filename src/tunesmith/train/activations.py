"""What the blocks that never change make of every row: computed once, for all epochs and for later fits of these rows.

Where an adaptation trains the upper blocks alone, the lower ones would do the same work in every epoch. Their output is
kept in the cache folder under a name made of all that it depends on (weights and how they are held, the body's
settings, rows, number format, blocks, machine), so that another fit of the same rows, at another step size or with
another head, finds it. It is exact: the kept numbers are those that the blocks give. The fit's conditions name the hash
of the file, so a resume cannot go on from other ones.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import folder_bytes, free_disk_bytes, remove_folder, verify_folder
from tunesmith.core.memory import free_memory_bytes
from tunesmith.models.beginning import beginning_of
from tunesmith.models.catalog import cache_folder
from tunesmith.models.dropout import drops_below
from tunesmith.models.halves import below_bytes, lower_half, never_moving_blocks
from tunesmith.models.nf4 import nf4_library
from tunesmith.models.packed import Features, Packed, pack
from tunesmith.models.policy import Policy
from tunesmith.models.quantized import form_of
from tunesmith.runtime.base import Runtime
from tunesmith.train.kept import kept_tensors
from tunesmith.train.passes import Pack

_FORM = "2"
"""Counts up when the arithmetic of the blocks changes, so that nobody goes on from what an older version has kept."""
_TOKENS_AT_ONCE = 4096
_SHARE_OF_MEMORY = 0.25
"""Of the free memory, what the activations of all rows may take; beyond it the blocks are run every time."""
_OF_A_HEAD = ("id2label", "label2id", "problem_type", "architectures")
"""Keys of a configuration that say nothing of the blocks: fits with different heads share what lies below."""
_MOST_KEPT = 8 << 30
"""Bytes of the folder of all kept activations; the oldest go first."""


@dataclass(frozen=True)
class Activations:
    """Outputs of the first `blocks` blocks, [N, W]; `first` is where each row begins. `sha256` is of their file."""

    blocks: int
    hidden_NW: Tensor
    first: dict[int, int]
    sha256: str

    def packing(self, plain: Pack) -> Pack:
        """The same packing, each batch with what the blocks make of its tokens."""

        def with_below(items: Sequence[Features]) -> Packed:
            batch = plain(items)
            return replace(batch, below=self._below(batch))

        return with_below

    def _below(self, batch: Packed) -> Tensor:
        rows, offsets = batch.row.tolist(), batch.offsets.tolist()
        # A beginning that rows share is no row: it is taken from the first row that goes on from it.
        for child, parent in enumerate(batch.parent.tolist()):
            if parent >= 0 and rows[parent] < 0:
                rows[parent] = rows[child]
        begins = batch.position_ids[batch.offsets[:-1]].tolist()
        lengths = [last - first for first, last in pairwise(offsets)]
        places = zip(rows, begins, lengths, strict=True)
        return torch.cat([self.hidden_NW[self.first[row] + begin :][:length] for row, begin, length in places])


def kept_activations(
    policy: Policy,
    moving: Collection[str],
    rows: Sequence[Features],
    base_sha256: str,
    runtime: Runtime,
    emitter: Emitter,
) -> Activations | None:
    """The activations of all rows below what may ever move; None where nothing lies below it, where dropout makes
    them different ones in every epoch, or where they have no room.

    Args:
        moving: names in the policy of what may ever move.

    Errors: those of `kept_tensors`.
    """
    names = [name.removeprefix("model.") for name in moving]
    blocks = never_moving_blocks(policy.model, names) if beginning_of(policy.model) is None else 0
    tokens = sum(len(row.token_ids) for row in rows)
    needed = below_bytes(policy.model, tokens)
    if not blocks:
        return None
    if drops_below(policy.model, blocks):
        emitter.emit("note", code="train.activations_dropout", blocks=blocks)
        return None
    if runtime.agree(needed > _SHARE_OF_MEMORY * free_memory_bytes() or needed > free_disk_bytes(cache_folder())):
        emitter.emit("note", code="train.activations_no_room", blocks=blocks, megabytes=needed >> 20)
        return None
    started = time.perf_counter()
    facts = _facts(policy, rows, blocks, base_sha256)
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder() / "activations" / name
    if runtime.rank == 0:
        _drop_damaged(folder, emitter)
    found = folder.exists()
    tensors, sha256 = kept_tensors(folder, facts, lambda: {"hidden": _computed(policy, rows, blocks, emitter)}, runtime)
    if runtime.rank == 0:
        _remove_oldest(folder)
    emitter.emit(
        "note", code="train.activations_found" if found else "train.activations", blocks=blocks, rows=len(rows),
        megabytes=needed >> 20, seconds=round(time.perf_counter() - started, 1),
    )  # fmt: skip
    return Activations(blocks, tensors["hidden"], _begins(rows), sha256)


def _drop_damaged(folder: Path, emitter: Emitter) -> None:
    """What can be computed again is, where its bytes are not those that were written."""
    try:
        if folder.exists():
            verify_folder(folder)
    except TunesmithError as error:
        emitter.emit("note", code="train.activations_damaged", path=str(folder), reason=error.code)
        remove_folder(folder)


def _begins(rows: Sequence[Features]) -> dict[int, int]:
    """Where each row begins among the tokens of all."""
    first: dict[int, int] = {}
    place = 0
    for row in rows:
        first[row.row] = place
        place += len(row.token_ids)
    return first


def _facts(policy: Policy, rows: Sequence[Features], blocks: int, base_sha256: str) -> dict[str, str]:
    digest = hashlib.sha256(repr([(row.row, row.token_ids) for row in rows]).encode())
    form = form_of(policy.model)
    # The same weights give something else with another rotary base or norm; which classes a head has, they cannot know.
    settings = {name: each for name, each in policy.model.config.to_dict().items() if name not in _OF_A_HEAD}
    return {
        "form": _FORM,
        "base": base_sha256,
        "blocks": str(blocks),
        "dtype": str(policy.model.dtype),
        "quantize": " ".join([form, *(nf4_library().values() if form == "nf4" else ())]),
        "config": hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest(),
        "device": policy.device.type,
        "rows": digest.hexdigest(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
    }


@torch.no_grad()
def _computed(policy: Policy, rows: Sequence[Features], blocks: int, emitter: Emitter) -> Tensor:
    """The outputs of all rows, in batches of like length; every row stands alone, so that none depends on another."""
    first = _begins(rows)
    total = sum(len(row.token_ids) for row in rows)
    width = int(policy.model.config.get_text_config().hidden_size)
    hidden_NW = torch.empty((total, width), dtype=policy.model.dtype)
    training = policy.training
    policy.eval()
    waiting: list[Features] = []
    held = done = 0
    for row in [*sorted(rows, key=lambda each: len(each.token_ids)), None]:
        if waiting and (row is None or held + len(row.token_ids) > _TOKENS_AT_ONCE):
            batch = pack(
                [Features(each.row, each.token_ids, (0.0,) * len(each.token_ids)) for each in waiting], share=False
            )
            batch = batch.to(policy.device)
            below_TW = lower_half(policy.model, batch, policy.positions(batch.position_ids), blocks).cpu()
            for each, part in zip(waiting, below_TW.split([len(each.token_ids) for each in waiting]), strict=True):
                hidden_NW[first[each.row] :][: len(part)] = part
            done += len(waiting)
            emitter.emit("progress", what="activations", done=done, total=len(rows))
            waiting, held = [], 0
        if row is not None:
            waiting.append(row)
            held += len(row.token_ids)
    policy.train(training)
    return hidden_NW


def _remove_oldest(current: Path) -> None:
    """Keep the folder of all activations within its size; what is in use now stays."""
    others = [each for each in current.parent.iterdir() if each != current]
    others.sort(key=lambda each: each.stat().st_mtime)
    held = {each: folder_bytes(each) for each in [*others, current]}
    for each in others:
        if sum(held.values()) <= _MOST_KEPT:
            return
        remove_folder(each)
        del held[each]
