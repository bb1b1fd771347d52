"""Ship: write each format aside, judge it from there, and let it appear only when it keeps its limits.

An artefact is a folder `ship/<format>/` of the run with its `parity.json` and a model card. It is written under
another name, so a refusal leaves nothing behind and an older artefact as it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tunesmith.adapt.files import CHANGE_FILES
from tunesmith.adapt.saved import SavedKind, check_base, kind_of
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.files import MANIFEST, folder_bytes, new_folder, read_manifest, remove_rubbish, require_space
from tunesmith.core.types import Message
from tunesmith.models.allowed import read_allowed
from tunesmith.models.clean_room import tell_unopened
from tunesmith.models.gguf_layout import Array
from tunesmith.models.load import BaseFolder, load_tokenizer, template_of
from tunesmith.models.safetensors_header import read_header
from tunesmith.models.weights import read_weights
from tunesmith.recipe.specs.ship import BESIDE, ParityLimits, ShipFormat
from tunesmith.ship.evaluated import load_evaluated, load_untouched
from tunesmith.ship.formats.adapter import write_adapter
from tunesmith.ship.formats.gguf import gguf_arrays, write_gguf
from tunesmith.ship.formats.safetensors import dtype_name, stored_dtype, write_safetensors
from tunesmith.ship.lineage import Lineage
from tunesmith.ship.merge import Merged, merge
from tunesmith.ship.merge_base import MergeBase
from tunesmith.ship.model_card import write_model_card
from tunesmith.ship.parity import NEAR_ANSWERS, PARITY, Gate, Parity, TaskMetric, refuse_beyond_limits
from tunesmith.tasks.chat_template import ChatTemplate

_COMPARED_TENSORS = 8
"""Changed tensors of a GGUF file that are compared with the base's: one that differs is proof enough."""

_LARGEST_LICENCE = 1 << 20

_MOST_BYTES: Mapping[ShipFormat, float] = {"safetensors": 4, "gguf-f16": 2, "gguf-q8_0": 34 / 32}
"""About what one number of merged weights takes on the disk; vectors in GGUF files and a base in float64 take more."""


@dataclass(frozen=True)
class Artifact:
    """A published artefact. `weights_sha256` is of its weight file, `size_bytes` of the whole folder."""

    format: ShipFormat
    path: Path
    parity: Parity
    weights_sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Shipping:
    """What is published, and what it is held against.

    Args:
        run_path: the run directory; artefacts appear in `ship/<format>/` below it.
        base: the base that was trained.
        change: folder of any kind that `adapt.saved` knows; its tokenizer and template are taken when it carries them,
            else the base's.
        chats: real conversations with answers, at least as many as `limits.chats` asks for.
        metric: the task's own figure, judged on GGUF files.
        limits: how far an artefact may be from the evaluated model.
        instead: weights that stand in for the base's own, as they did in the evaluated model.
        merge_base: why they do or do not, where the change was trained beside a quantised base.
        lineage: how the base that was trained came to be, where stages before have made it.
    """

    run_path: Path
    base: BaseFolder
    change: Path
    chats: Sequence[Sequence[Message]]
    metric: TaskMetric | None = None
    limits: ParityLimits = field(default_factory=ParityLimits)
    instead: Mapping[str, Tensor] = field(default_factory=dict)
    merge_base: MergeBase | None = None
    lineage: Lineage | None = None


@dataclass(frozen=True)
class _Job:
    shipping: Shipping
    kind: SavedKind
    tokenizer_folder: Path
    tokenizer: PreTrainedTokenizerFast
    gate: Gate
    emitter: Emitter
    base_dtype: torch.dtype

    @property
    def run(self) -> Path:
        return self.shipping.run_path

    @property
    def base(self) -> BaseFolder:
        return self.shipping.base

    @property
    def named_base(self) -> BaseFolder:
        """The base that people have: the run's, whatever stages made of it before the last one."""
        lineage = self.shipping.lineage
        return self.base if lineage is None else lineage.base

    @property
    def change(self) -> Path:
        return self.shipping.change

    @property
    def metric(self) -> TaskMetric | None:
        return self.shipping.metric

    @property
    def name(self) -> str:
        return self.run.parent.name or self.run.name

    @property
    def folder(self) -> Path:
        return self.run / "ship"

    @cached_property
    def merged(self) -> Merged:
        """The merged weights, made when a format first needs them."""
        return merge(self.base, self.change, self.shipping.instead)


def ship_formats(shipping: Shipping, formats: Sequence[ShipFormat], emitter: Emitter = SILENT) -> list[Artifact]:
    """Publish a trained change in each format, safetensors first, every one through the parity gate.

    Emits progress, and one `shipped` event a format. Errors: ship.parity_failed (nothing of that format is
    published), core.too_little_space, ship.too_few_chats, ship.no_answers, those of `merge`, of the writers and of
    `LlamaJudge`.
    """
    job = _job(shipping, emitter)
    if job.folder.is_dir():
        remove_rubbish(job.folder)
    ordered = sorted(dict.fromkeys(formats), key=lambda each: each != "safetensors")
    require_space(job.folder, sum(_needed_bytes(job, kind) for kind in ordered))
    artifacts: list[Artifact] = []
    for kind in ordered:
        artifact = _publish(job, kind)
        emitter.emit("shipped", format=kind, path=str(artifact.path), size_bytes=artifact.size_bytes)
        artifacts.append(artifact)
    return artifacts


def check_published(shipping: Shipping, emitter: Emitter = SILENT) -> list[Parity]:
    """Hold every published artefact against the evaluated model again, from its own folder.

    Emits one `parity` event a format. Errors: ship.parity_failed, and those of `ship_formats`.
    """
    job = _job(shipping, emitter)
    found: list[Parity] = []
    for kind in (*_MOST_BYTES, *BESIDE):
        folder = job.folder / kind
        if not (folder / PARITY).is_file():
            continue
        if kind == "safetensors":
            parity = job.gate.check_safetensors(folder)
        elif kind == "adapter":
            parity = job.gate.check_adapter(folder, job.base)
        else:
            parity = job.gate.check_gguf(folder, kind, dict(_base_arrays(job)), job.metric)
        refuse_beyond_limits(parity)
        emitter.emit("parity", format=kind, ok=parity.ok)
        found.append(parity)
    return found


def _job(shipping: Shipping, emitter: Emitter) -> _Job:
    limits, base, change = shipping.limits, shipping.base, shipping.change
    if len(shipping.chats) < limits.chats:
        raise TunesmithError("ship.too_few_chats", chats=len(shipping.chats), needed=limits.chats)
    check_base(base, change)
    if not (change / MANIFEST).is_file():
        tell_unopened(change, CHANGE_FILES, emitter)
    tokenizer_folder = change if (change / "tokenizer.json").is_file() else base.path
    tokenizer = load_tokenizer(tokenizer_folder)
    evaluated, untouched = load_evaluated(base, change, shipping.instead), load_untouched(base, shipping.instead)
    gate = Gate(evaluated, untouched, tokenizer, shipping.chats, limits, emitter)
    return _Job(shipping, kind_of(change), tokenizer_folder, tokenizer, gate, emitter, stored_dtype(base.path))


def _publish(job: _Job, kind: ShipFormat) -> Artifact:
    if kind == "adapter":
        return _adapter(job)
    return _safetensors(job) if kind == "safetensors" else _gguf(job, kind)


def _adapter(job: _Job) -> Artifact:
    """The change as it was saved, in the masters' own float32."""
    final = job.folder / "adapter"
    with new_folder(final, _needed_bytes(job, "adapter"), **_facts(job, "adapter")) as aside:
        weights = write_adapter(aside, job.change, job.base, job.tokenizer_folder)
        parity = job.gate.check_adapter(aside, job.base)
        refuse_beyond_limits(parity)
        _describe(job, aside, parity, "float32")
    return _artifact("adapter", final, weights, parity)


def _safetensors(job: _Job) -> Artifact:
    """In the base's own number format when that keeps the limits, else in float32: measured, not assumed."""
    stored = job.base_dtype
    final = job.folder / "safetensors"
    with new_folder(final, _needed_bytes(job, "safetensors"), **_facts(job, "safetensors")) as aside:
        for dtype in dict.fromkeys((stored, torch.float32)):
            write_safetensors(aside, job.merged.tensors, job.base.path, job.tokenizer_folder, dtype)
            parity = job.gate.check_safetensors(aside)
            if parity.ok:
                break
        refuse_beyond_limits(parity)
        _describe(job, aside, parity, dtype_name(dtype))
    if dtype != stored:
        job.emitter.emit("note", code="ship.other_dtype", stated=dtype_name(stored), written=dtype_name(dtype))
    return _artifact("safetensors", final, "model.safetensors", parity)


def _gguf(job: _Job, kind: ShipFormat) -> Artifact:
    final = job.folder / kind
    with new_folder(final, _needed_bytes(job, kind), **_facts(job, kind)) as aside:
        path = write_gguf(
            aside,
            kind,
            job.merged.tensors,
            job.base.path,
            job.tokenizer,
            template_of(job.tokenizer),
            name=job.name,
            licence=job.base.licence,
        )
        parity = job.gate.check_gguf(aside, kind, dict(_base_arrays(job)), job.metric)
        refuse_beyond_limits(parity)
        _tell_near_ties(job, parity)
        _describe(job, aside, parity, kind.removeprefix("gguf-"))
    return _artifact(kind, final, path.name, parity)


def _tell_near_ties(job: _Job, parity: Parity) -> None:
    if job.metric is None or not job.shipping.limits.near_ties_apart or not parity.value(NEAR_ANSWERS):
        return
    evaluated, artefact = (parity.value(f"{job.metric.name}_{whose}") for whose in ("evaluated", "artefact"))
    job.emitter.emit(
        "note",
        code="ship.near_ties",
        format=parity.format,
        answers=int(parity.value(NEAR_ANSWERS)),
        questions=len(job.metric.questions),
        metric=job.metric.name,
        evaluated=round(evaluated, 1),
        artefact=round(artefact, 1),
    )


def _needed_bytes(job: _Job, kind: ShipFormat) -> int:
    if kind == "adapter":
        return folder_bytes(job.change)
    return int(_MOST_BYTES[kind] * sum(each.numel() for each in job.merged.tensors.values()))


def _base_arrays(job: _Job) -> Iterator[tuple[str, Array]]:
    """The values without the change of a few tensors that it moved, as a GGUF file would hold them."""
    base: Mapping[str, Tensor] = {**read_weights(job.base.path), **job.shipping.instead}
    some = set(islice(job.merged.changed, _COMPARED_TENSORS))
    yield from gguf_arrays(read_allowed(job.base.path, "config.json").values, base, some)


def _describe(job: _Job, folder: Path, parity: Parity, dtype: str) -> None:
    parity.write(folder, {**_facts(job, parity.format), "dtype": dtype, "base_dtype": dtype_name(job.base_dtype)})
    shipping = job.shipping
    write_model_card(folder, job.name, job.named_base, parity, job.tokenizer, shipping.merge_base, shipping.lineage)
    for name in ("LICENSE", "LICENSE.txt", "NOTICE"):
        licence = job.base.path / name
        if not licence.is_file():
            continue
        if _is_own(licence) and licence.stat().st_size <= _LARGEST_LICENCE:
            shutil.copyfile(licence, folder / name)
        else:
            job.emitter.emit("note", code="ship.licence_left_out", path=str(licence))


def _is_own(path: Path) -> bool:
    """Whether a file lies in its folder, or where a hub's cache keeps what it links to: no file of somebody's else."""
    folder, target = path.parent.resolve(), path.resolve()
    kept = folder.parents[1] / "blobs" if folder.parent.name == "snapshots" else folder
    return target.parent in (folder, kept)


def _facts(job: _Job, kind: str) -> dict[str, object]:
    return {
        "kind": "artefact",
        "artefact_format": kind,
        "adaptation": job.kind.name,
        "tensors_moved": len(read_header(job.change / job.kind.weights) if kind == "adapter" else job.merged.changed),
        "base": job.named_base.name,
        "base_revision": job.named_base.revision,
        "base_source": job.named_base.origin.source,
        "base_sha256": job.named_base.sha256,
        **({} if job.shipping.lineage is None else {"stages": list(job.shipping.lineage.stages)}),
        "template_sha256": ChatTemplate(job.tokenizer).sha256,
        **({} if job.shipping.merge_base is None else {"merge_base": asdict(job.shipping.merge_base)}),
    }


def _artifact(kind: ShipFormat, path: Path, weights: str, parity: Parity) -> Artifact:
    files = read_manifest(path)["files"]
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    digest = str(files[weights]) if isinstance(files, dict) else ""
    return Artifact(kind, path, parity, digest, size)
