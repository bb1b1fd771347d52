"""Durable checkpoints and exact resume.

    <stage>/checkpoint-<step>/   the change in the ecosystem's form, tokenizer files, optimizer.safetensors,
                                 masters as the change itself (float32), state.json, manifest.json
    <stage>/best/                the change and the tokenizer files of the best step

Everything that the loop needs to go on is in the folder; nothing is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import new_folder, remove_folder, remove_rubbish, verify_folder
from tunesmith.models.weights import read_tensors

_PREFIX = "checkpoint-"
_STATE = "state.json"
BEST = "best"


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
        key: hash of all that the training depends on; a checkpoint with another key is refused.
        base_sha256: hash of the base's weights, so that the change is never put on another.
        save_weights: writes the change into a folder in the ecosystem's form.
        save_tokenizer: writes the tokenizer and the template into a folder.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        key: str,
        base_sha256: str,
        save_weights: Callable[[Path, Mapping[str, Tensor]], None],
        save_tokenizer: Callable[[Path], None],
        emitter: Emitter,
    ) -> None:
        self._folder = folder
        self._keep = keep
        self._key = key
        self._base_sha256 = base_sha256
        self._save_weights = save_weights
        self._save_tokenizer = save_tokenizer
        self._emitter = emitter

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint whole, then let the oldest go. Errors: those of `core.files.new_folder`."""
        path = self._folder / f"{_PREFIX}{snapshot.step}"
        facts = {**snapshot.facts, "step": snapshot.step, "key": self._key}
        with new_folder(path, kind="checkpoint", base_sha256=self._base_sha256) as aside:
            self._save_weights(aside, snapshot.masters)
            self._save_tokenizer(aside)
            save_file(_contiguous(snapshot.masters), aside / "masters.safetensors")
            save_file(_contiguous(snapshot.optimizer), aside / "optimizer.safetensors")
            (aside / _STATE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")
        self._rotate()
        return path

    def save_best(self, masters: Mapping[str, Tensor], step: int, value: float | None) -> Path:
        """Write the best change so far."""
        path = self._folder / BEST
        facts = {"step": step, "value": value, "key": self._key, "base_sha256": self._base_sha256}
        with new_folder(path, kind="best", **facts) as aside:
            self._save_weights(aside, masters)
            self._save_tokenizer(aside)
        return path

    def newest(self) -> Snapshot | None:
        """The newest checkpoint that is whole; None when there is none.

        Newer, damaged ones are named and removed: they would count among the newest when the oldest go, until nothing
        whole is left. The steps they held are done again.

        Errors: train.no_valid_checkpoint when all are damaged, train.resume_differs when one is whole but belongs to
        another recipe, data or model: never a silent start from zero.
        """
        remove_rubbish(self._folder)
        damaged: dict[Path, str] = {}
        for path in reversed(checkpoint_paths(self._folder)):
            try:
                verify_folder(path)
            except TunesmithError as error:
                damaged[path] = f"{path.name} ({error})"
                self._emitter.emit("alarm", code=error.code, checkpoint=path.name)
                continue
            snapshot = self._load(path)
            for each in damaged:
                remove_folder(each)
            return snapshot
        if damaged:
            listed = "; ".join(damaged.values())
            raise TunesmithError("train.no_valid_checkpoint", folder=str(self._folder), damaged=listed)
        return None

    def _load(self, path: Path) -> Snapshot:
        facts = json.loads((path / _STATE).read_text("utf-8"))
        if facts["key"] != self._key:
            raise TunesmithError("train.resume_differs", checkpoint=str(path))
        return Snapshot(
            facts["step"],
            read_tensors(path / "masters.safetensors"),
            read_tensors(path / "optimizer.safetensors"),
            facts,
        )

    def _rotate(self) -> None:
        for path in checkpoint_paths(self._folder)[: -self._keep]:
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
