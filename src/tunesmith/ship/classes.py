"""Publishing a model with a task head, and the gate that it has to pass.

The artefact is judged from its own folder by transformers' forward, one row at a time; what it is held against is the
evaluated model over packed rows, its adapter not merged. So the merge, the file and the packing are judged together. A
change that cannot be merged is published with its head beside the base, and judged as PEFT puts both on it.

Shape letters: K places of answer of a row, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tunesmith.adapt.saved import kind_of
from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.files import folder_bytes, new_folder, require_space
from tunesmith.evaluate.answers import Question
from tunesmith.evaluate.labels import label_scores
from tunesmith.evaluate.metrics import score
from tunesmith.models.heads import ClassPolicy, Head
from tunesmith.models.load import BaseFolder, load_with_head
from tunesmith.models.safetensors_header import read_header
from tunesmith.models.side_by_side import SeveralHeads
from tunesmith.recipe.specs.ship import ParityLimits, ShipFormat
from tunesmith.ship.adapter_judge import judge_name, put_on_by_others
from tunesmith.ship.evaluated import load_evaluated_classes
from tunesmith.ship.formats.adapter import write_adapter
from tunesmith.ship.formats.safetensors import dtype_name, stored_dtype, write_safetensors
from tunesmith.ship.lineage import Lineage
from tunesmith.ship.merge import merge
from tunesmith.ship.model_card import write_class_card
from tunesmith.ship.one_task import keep_task, tensors_of_task
from tunesmith.ship.parity import FLOAT32_GAP, PARITY, Check, Parity, refuse_beyond_limits
from tunesmith.ship.stored_types import other_dtypes, stated_dtype
from tunesmith.tasks.classes import ClassTask
from tunesmith.tasks.registry import class_task_of


@dataclass(frozen=True)
class ClassShipping:
    """What is published, and what it is held against.

    Args:
        run_path: the run directory; the artefact appears in `ship/safetensors/` below it, that of one of several tasks
            in `ship/safetensors-<task>/`.
        change: folder of the change; its tokenizer is taken when it carries one, else the base's.
        head: of the model, or the heads of all its tasks.
        task: which of them is published; empty where there is one.
        max_length: longest row in tokens, as the recipe has it.
        questions: rows on which both are asked, and `answers` what the evaluated model said.
        metric: the recipe's first.
        lineage: how the base that was trained came to be, where stages before have made it.
    """

    run_path: Path
    base: BaseFolder
    change: Path
    head: Head
    max_length: int
    questions: Sequence[Question]
    answers: Sequence[str]
    metric: str
    limits: ParityLimits = field(default_factory=ParityLimits)
    task: str = ""
    lineage: Lineage | None = None

    @property
    def own_head(self) -> Head:
        """The head that is published."""
        return dict(self.head.parts)[self.task] if self.task else self.head

    @property
    def name(self) -> str:
        """What the model is called: like the run, and its task where there are several."""
        return "-".join(each for each in (self.run_path.parent.name, self.task) if each)

    @property
    def named_base(self) -> BaseFolder:
        """The base that people have: the run's, whatever stages made of it before the last one."""
        return self.base if self.lineage is None else self.lineage.base

    @property
    def format(self) -> ShipFormat:
        """Merged weights, or the change beside its base where it cannot be merged."""
        return "safetensors" if kind_of(self.change).mergeable else "adapter"

    @property
    def folder(self) -> Path:
        """Where the artefact appears."""
        return self.run_path / "ship" / "-".join(each for each in (self.format, self.task) if each)

    @property
    def tokenizer_folder(self) -> Path:
        """Whose tokenizer the model was trained with."""
        return self.change if (self.change / "tokenizer.json").is_file() else self.base.path


def publish_classes(shipping: ClassShipping, emitter: Emitter = SILENT) -> None:
    """Publish the model as its change allows. Emits one `shipped` event.

    Errors: ship.parity_failed, core.too_little_space, those of `merge` and of `write_adapter`.
    """
    publish = _publish_merged if shipping.format == "safetensors" else _publish_beside
    publish(shipping, emitter)
    size = sum(each.stat().st_size for each in shipping.folder.rglob("*") if each.is_file())
    emitter.emit("shipped", format=shipping.folder.name, path=str(shipping.folder), size_bytes=size)


def _publish_beside(shipping: ClassShipping, emitter: Emitter) -> None:
    """The change with its head as it was saved, in the masters' own float32."""
    kind, needed = kind_of(shipping.change), folder_bytes(shipping.change)
    require_space(shipping.folder.parent, needed)
    gate = ClassGate(shipping, emitter)
    facts = _facts(shipping, kind.name, len(read_header(shipping.change / kind.weights)))
    with new_folder(shipping.folder, needed, **facts) as aside:
        write_adapter(aside, shipping.change, shipping.base, shipping.tokenizer_folder)
        if shipping.task:
            keep_task(aside, shipping.head, shipping.task)
        parity = gate.check(aside)
        refuse_beyond_limits(parity)
        parity.write(aside, {**facts, "dtype": "float32", "base_dtype": dtype_name(stored_dtype(shipping.base.path))})
        write_class_card(aside, shipping.name, shipping.named_base, parity, shipping.own_head, shipping.lineage)


def _publish_merged(shipping: ClassShipping, emitter: Emitter) -> None:
    """Merged weights in the base's own number format when that keeps the limits, else in float32."""
    merged = merge(shipping.base, shipping.change, head=shipping.head)
    tensors = tensors_of_task(merged.tensors, shipping.head, shipping.task) if shipping.task else merged.tensors
    needed = 4 * sum(each.numel() for each in tensors.values())
    require_space(shipping.folder.parent, needed)
    stored = stored_dtype(shipping.base.path)
    gate = ClassGate(shipping, emitter)
    facts = _facts(shipping, merged.kind, len(merged.changed))
    with new_folder(shipping.folder, needed, **facts) as aside:
        for dtype in dict.fromkeys((stored, torch.float32)):
            write_safetensors(aside, tensors, shipping.base.path, shipping.tokenizer_folder, dtype, shipping.own_head)
            parity = gate.check(aside)
            if parity.ok:
                break
        refuse_beyond_limits(parity)
        parity.write(aside, {**facts, "dtype": dtype_name(dtype), "base_dtype": dtype_name(stored)})
        write_class_card(aside, shipping.name, shipping.named_base, parity, shipping.own_head, shipping.lineage)
    if dtype != stored:
        emitter.emit("note", code="ship.other_dtype", stated=dtype_name(stored), written=dtype_name(dtype))


def check_published_classes(shipping: ClassShipping, emitter: Emitter = SILENT) -> list[Parity]:
    """Hold the published artefact against the evaluated model again. Errors: ship.parity_failed."""
    if not (shipping.folder / PARITY).is_file():
        return []
    parity = ClassGate(shipping, emitter).check(shipping.folder)
    refuse_beyond_limits(parity)
    emitter.emit("parity", format=shipping.folder.name, ok=parity.ok)
    return [parity]


def _facts(shipping: ClassShipping, adaptation: str, moved: int) -> dict[str, object]:
    return {
        "kind": "artefact",
        "artefact_format": shipping.format,
        "adaptation": adaptation,
        "tensors_moved": moved,
        "task": shipping.own_head.task,
        "labels": list(shipping.own_head.labels),
        "several": shipping.own_head.several,
        "max_length": shipping.max_length,
        "base": shipping.named_base.name,
        "base_revision": shipping.named_base.revision,
        "base_source": shipping.named_base.origin.source,
        "base_sha256": shipping.named_base.sha256,
        **({} if shipping.lineage is None else {"stages": list(shipping.lineage.stages)}),
    }


class ClassGate:
    """The evaluated model's side: ids and scores of every row, computed once."""

    def __init__(self, shipping: ClassShipping, emitter: Emitter) -> None:
        self._shipping = shipping
        self._emitter = emitter
        self._head = shipping.own_head
        self._task = class_task_of(shipping.tokenizer_folder, self._head, shipping.max_length, shipping.base.path)
        self._read = [self._task.read(each) for each in shipping.questions]
        evaluated = load_evaluated_classes(shipping.base, shipping.change, shipping.head)
        policy = ClassPolicy(evaluated, self._head.several)
        if shipping.task:
            policy = SeveralHeads(evaluated, shipping.head).alone(shipping.task)
        self._scores = label_scores(policy.eval(), self._task, shipping.questions)

    def check(self, folder: Path) -> Parity:
        """Judge a folder in float32: ids, labels, number format, gap of scores, highest scores, the task's metric."""
        start, shipping = time.monotonic(), self._shipping
        is_whole = shipping.format == "safetensors"
        artefact, missing = self._artefact(folder) if is_whole else self._beside(folder)
        task = class_task_of(folder, self._head, shipping.max_length, folder if is_whole else shipping.base.path)
        differing = sum(
            task.read(question).token_ids != read.token_ids
            for question, read in zip(shipping.questions, self._read, strict=True)
        )
        gaps, same, positions, answers = [0.0], 0, 0, []
        for place, question in enumerate(shipping.questions):
            own_KC, other_KC = self._scores[place], _plain_scores(artefact, task, question)
            gaps.append(float((own_KC - other_KC).abs().max()))
            same += int((own_KC.argmax(-1) == other_KC.argmax(-1)).sum())
            positions += len(own_KC)
            answers.append(task.answer(other_KC, question))
            self._emitter.emit(
                "progress", what=f"ship.{shipping.format}", done=place + 1, total=len(shipping.questions)
            )
        rounded = is_whole and stated_dtype(folder) not in ("float32", "float64")
        gap = Check("largest_logit_gap", max(gaps))
        checks = (
            Check("rows_with_other_ids", differing, 0, "at_most"),
            Check("weights_of_the_head_missing", missing, 0, "at_most"),
            Check("top1_agreement", same / max(1, positions), shipping.limits.top1_safetensors, "at_least"),
            gap if rounded else Check("largest_logit_gap", max(gaps), FLOAT32_GAP, "at_most"),
            Check("tensors_of_another_format", other_dtypes(folder) if is_whole else 0, 0, "at_most"),
            self._metric(answers),
        )
        judge = f"{'transformers' if is_whole else judge_name(folder)}, torch {torch.__version__}, float32"
        return Parity(
            shipping.format,
            judge,
            len(shipping.questions),
            len(answers),
            positions,
            checks,
            round(time.monotonic() - start, 2),
        )

    def _artefact(self, folder: Path) -> tuple[nn.Module, int]:
        """A folder of whole weights in memory, and how many of its head are missing."""
        loaded = load_with_head(folder, self._head, dtype=torch.float32)
        return loaded.model, len(loaded.new)

    def _beside(self, folder: Path) -> tuple[nn.Module, int]:
        """The base with a change and its head as other code puts both on it."""
        loaded = load_with_head(self._shipping.base.path, self._head, dtype=torch.float32)
        stored = read_header(folder / kind_of(folder).weights)
        missing = sum(not any(f".{each}".endswith(f".{name}") for each in stored) for name in loaded.new)
        return put_on_by_others(loaded.model, folder), missing

    def _metric(self, answers: Sequence[str]) -> Check:
        name, wanted = self._shipping.metric, [each.wanted for each in self._shipping.questions]
        own, other = (
            100 * score([name], texts, wanted).report.metrics[name] for texts in (self._shipping.answers, answers)
        )
        return Check(f"{name}_difference", round(abs(own - other), 9), self._shipping.limits.metric_points, "at_most")


@torch.inference_mode()
def _plain_scores(artefact: nn.Module, task: ClassTask, question: Question) -> Tensor:
    """Scores by the model's own forward over one row, [K, C]."""
    read = task.read(question)
    token_ids = torch.tensor([read.token_ids], device=next(artefact.parameters()).device)
    scores: Tensor = artefact(input_ids=token_ids).logits[0].float()
    if scores.ndim == 1:
        return scores[None]
    scores = scores[-len(read.token_ids) :]  # PEFT gives virtual tokens classes too
    return scores[[place for place, weight in enumerate(read.weights) if weight]]
