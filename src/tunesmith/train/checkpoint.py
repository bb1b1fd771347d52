"""Durable checkpoints and exact resume.

    <stage>/checkpoint-<step>/   the change in the ecosystem's form, tokenizer files, optimizer.safetensors,
                                 masters as the change itself (float32), state.json, manifest.json
    <stage>/best/                the change and the tokenizer files of the best step; its masters too where the next
                                 stage trains it on

Everything that the loop needs to go on is in the folder; nothing is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tunesmith.core.conditions import MACHINE_ACCEPTED, Conditions, differences, listed
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import (
    folder_bytes,
    new_folder,
    remove_folder,
    remove_rubbish,
    require_space,
    verify_folder,
)
from tunesmith.messages import render
from tunesmith.models.weights import read_tensors

_PREFIX = "checkpoint-"
_STATE = "state.json"
BEST = "best"
MASTERS = "masters.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """Everything at a step: masters and optimizer as tensors, the rest as JSON values."""

    step: int
    masters: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    facts: Mapping[str, object]


class Checkpoints:
    """The checkpoints of one stage.

    Args:
        folder: of the stage.
        keep: newest checkpoints kept; older ones go.
        conditions: all that the training depends on; a checkpoint made under others is refused with what differs.
        base_sha256: hash of the base's weights, so that the change is never put on another.
        save_weights: writes the change into a folder in the ecosystem's form.
        save_tokenizer: writes the tokenizer and the template into a folder.
        accept_machine: go on where only the machine differs (versions, processor, threads), and say so.
        continued: another stage trains the best change on, from its masters.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        conditions: Conditions,
        base_sha256: str,
        save_weights: Callable[[Path, Mapping[str, Tensor]], None],
        save_tokenizer: Callable[[Path], None],
        emitter: Emitter,
        accept_machine: bool = False,
        continued: bool = False,
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._conditions = conditions
        self._base_sha256 = base_sha256
        self._save_weights = save_weights
        self._save_tokenizer = save_tokenizer
        self._emitter = emitter
        self._accept_machine = accept_machine
        self._continued = continued

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint whole, then let the oldest go. Errors: those of `core.files.new_folder`."""
        path = self._folder / f"{_PREFIX}{snapshot.step}"
        facts = {**snapshot.facts, "step": snapshot.step, "made_under": asdict(self._conditions)}
        needed = _checkpoint_bytes(snapshot.masters, _bytes(snapshot.optimizer))
        with new_folder(path, needed, kind="checkpoint", base_sha256=self._base_sha256) as aside:
            self._save_weights(aside, snapshot.masters)
            self._save_tokenizer(aside)
            save_file(_contiguous(snapshot.masters), aside / MASTERS)
            save_file(_contiguous(snapshot.optimizer), aside / "optimizer.safetensors")
            (aside / _STATE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")
        self._rotate(snapshot.step)
        return path

    def save_best(self, masters: Mapping[str, Tensor], step: int, value: float | None) -> Path:
        """Write the best change so far."""
        path = self._folder / BEST
        facts = {"step": step, "value": value, "base_sha256": self._base_sha256}
        with new_folder(path, self._best_bytes(masters), kind="best", **facts) as aside:
            self._save_weights(aside, masters)
            self._save_tokenizer(aside)
            if self._continued:
                save_file(_contiguous(masters), aside / MASTERS)
        return path

    def _best_bytes(self, masters: Mapping[str, Tensor]) -> int:
        return _bytes(masters) * (1 + self._continued)

    def require_space(self, masters: Mapping[str, Tensor], optimizer_bytes: int, saves: int) -> None:
        """Refuse before the first step what the disk cannot hold until the end. Errors: core.too_little_space.

        `saves` is how many checkpoints are still to be saved.
        """
        # The newest is whole before the oldest goes, and the best before the one it replaces.
        together = min(self._keep + 1, len(checkpoint_paths(self._folder)) + saves)
        most = together * _checkpoint_bytes(masters, optimizer_bytes) + 2 * self._best_bytes(masters)
        require_space(self._folder, max(0, most - folder_bytes(self._folder)))

    def newest(self) -> Snapshot | None:
        """The newest checkpoint that is whole; None when there is none.

        Newer, damaged ones are named and removed: they would count among the newest when the oldest go, until nothing
        whole is left. The steps they held are done again.

        Errors: train.no_valid_checkpoint when all are damaged; when one is whole, train.resume_differs if it belongs to
        other settings, rows or another base, train.machine_differs if it was made under other versions, on another
        processor or with another number of threads: never a silent start from zero, never a silent change.
        """
        remove_rubbish(self._folder)
        damaged: dict[Path, str] = {}
        for path in reversed(checkpoint_paths(self._folder)):
            try:
                verify_folder(path)
            except TunesmithError as error:
                reason = render(error).cause
                damaged[path] = f"{path.name} ({reason})"
                self._emitter.emit("alarm", code="train.checkpoint_refused", checkpoint=path.name, reason=reason)
                continue
            snapshot = self._load(path)
            for each in damaged:
                remove_folder(each)
            self._rotate(snapshot.step)  # a kill may have come between its save and that
            return snapshot
        if damaged:
            listed = "; ".join(damaged.values())
            raise TunesmithError("train.no_valid_checkpoint", folder=str(self._folder), damaged=listed)
        return None

    def _load(self, path: Path) -> Snapshot:
        facts = json.loads((path / _STATE).read_text("utf-8"))
        self._compare(path, facts.get("made_under", {}))
        return Snapshot(
            facts["step"],
            read_tensors(path / MASTERS),
            read_tensors(path / "optimizer.safetensors"),
            facts,
        )

    def _compare(self, path: Path, made_under: Mapping[str, Mapping[str, str]]) -> None:
        inputs = differences(made_under.get("inputs", {}), self._conditions.inputs)
        if inputs:
            raise TunesmithError("train.resume_differs", checkpoint=str(path), differences=listed(inputs))
        machine = differences(made_under.get("machine", {}), self._conditions.machine)
        if machine and not self._accept_machine:
            raise TunesmithError("train.machine_differs", checkpoint=str(path), differences=listed(machine))
        if machine:
            self._emitter.emit("alarm", code=MACHINE_ACCEPTED, checkpoint=path.name, differences=listed(machine))

    def newest_until(self, step: int) -> Path | None:
        """The newest checkpoint of at most this step, else the best one; None when there is neither."""
        found = [path for path in checkpoint_paths(self._folder) if checkpoint_step(path) <= step]
        best = self._folder / BEST
        return found[-1] if found else best if best.is_dir() else None

    def _rotate(self, saved: int) -> None:
        """Let the oldest go. One of a later step is damaged and could not be removed: it takes nobody's place."""
        older = [path for path in checkpoint_paths(self._folder) if checkpoint_step(path) < saved]
        for path in older[: max(0, len(older) + 1 - self._keep)]:
            remove_folder(path)


def checkpoint_step(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.removeprefix(_PREFIX))


def checkpoint_facts(path: Path) -> Mapping[str, Mapping[str, object]]:
    """What a checkpoint holds besides tensors, of the parts that are tables: where the loop was, and how it cut."""
    facts = json.loads((path / _STATE).read_text("utf-8"))
    return {name: value for name, value in facts.items() if isinstance(value, dict)}


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints of a stage, oldest first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=checkpoint_step)


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.contiguous() for name, each in tensors.items()}


def _checkpoint_bytes(masters: Mapping[str, Tensor], optimizer_bytes: int) -> int:
    """Masters, the same numbers in the ecosystem's form, and the optimizer."""
    return 2 * _bytes(masters) + optimizer_bytes


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(each.nbytes for each in tensors.values())
