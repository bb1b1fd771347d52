"""Publishing a model with a task head, and the gate that it has to pass.

The artefact is judged from its own folder by transformers' forward, one row at a time; what it is held against is the
evaluated model over packed rows, its adapter not merged. So the merge, the file and the packing are judged together.

Shape letters: K places of answer of a row, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tunesmith.core.events import SILENT, Emitter
from tunesmith.core.files import new_folder, require_space
from tunesmith.evaluate.answers import Question
from tunesmith.evaluate.labels import label_scores
from tunesmith.evaluate.metrics import score
from tunesmith.models.heads import ClassPolicy, Head
from tunesmith.models.load import BaseFolder, Loaded, load_with_head
from tunesmith.recipe.specs.ship import ParityLimits
from tunesmith.ship.evaluated import load_evaluated_classes
from tunesmith.ship.formats.safetensors import dtype_name, stored_dtype, write_safetensors
from tunesmith.ship.merge import Merged, merge
from tunesmith.ship.model_card import write_class_card
from tunesmith.ship.parity import PARITY, Check, Parity, refuse_beyond_limits
from tunesmith.ship.stored_types import other_dtypes, stated_dtype
from tunesmith.tasks.classes import ClassTask
from tunesmith.tasks.registry import class_task_of

FORMAT = "safetensors"
_FLOAT32_GAP = 0.02


@dataclass(frozen=True)
class ClassShipping:
    """What is published, and what it is held against.

    Args:
        run_path: the run directory; the artefact appears in `ship/safetensors/` below it.
        change: folder of the change; its tokenizer is taken when it carries one, else the base's.
        max_length: longest row in tokens, as the recipe has it.
        questions: rows on which both are asked, and `answers` what the evaluated model said.
        metric: the recipe's first.
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

    @property
    def folder(self) -> Path:
        """Where the artefact appears."""
        return self.run_path / "ship" / FORMAT

    @property
    def tokenizer_folder(self) -> Path:
        """Whose tokenizer the model was trained with."""
        return self.change if (self.change / "tokenizer.json").is_file() else self.base.path


def publish_classes(shipping: ClassShipping, emitter: Emitter = SILENT) -> None:
    """Publish the merged model in the base's own number format when that keeps the limits, else in float32.

    Emits one `shipped` event. Errors: ship.parity_failed, core.too_little_space, those of `merge`.
    """
    merged = merge(shipping.base, shipping.change, head=shipping.head)
    needed = 4 * sum(each.numel() for each in merged.tensors.values())
    require_space(shipping.folder.parent, needed)
    stored = stored_dtype(shipping.base.path)
    gate = ClassGate(shipping, emitter)
    with new_folder(shipping.folder, needed, **_facts(shipping, merged)) as aside:
        for dtype in dict.fromkeys((stored, torch.float32)):
            write_safetensors(
                aside, merged.tensors, shipping.base.path, shipping.tokenizer_folder, dtype, shipping.head
            )
            parity = gate.check(aside)
            if parity.ok:
                break
        refuse_beyond_limits(parity)
        parity.write(aside, {**_facts(shipping, merged), "dtype": dtype_name(dtype), "base_dtype": dtype_name(stored)})
        write_class_card(aside, shipping.run_path.parent.name, shipping.base, parity, shipping.head)
    if dtype != stored:
        emitter.emit("note", code="ship.other_dtype", stated=dtype_name(stored), written=dtype_name(dtype))
    size = sum(each.stat().st_size for each in shipping.folder.rglob("*") if each.is_file())
    emitter.emit("shipped", format=FORMAT, path=str(shipping.folder), size_bytes=size)


def check_published_classes(shipping: ClassShipping, emitter: Emitter = SILENT) -> list[Parity]:
    """Hold the published artefact against the evaluated model again. Errors: ship.parity_failed."""
    if not (shipping.folder / PARITY).is_file():
        return []
    parity = ClassGate(shipping, emitter).check(shipping.folder)
    refuse_beyond_limits(parity)
    emitter.emit("parity", format=FORMAT, ok=parity.ok)
    return [parity]


def _facts(shipping: ClassShipping, merged: Merged) -> dict[str, object]:
    return {
        "kind": "artefact",
        "artefact_format": FORMAT,
        "adaptation": merged.kind,
        "tensors_moved": len(merged.changed),
        "task": shipping.head.task,
        "labels": list(shipping.head.labels),
        "base": shipping.base.name,
        "base_sha256": shipping.base.sha256,
    }


class ClassGate:
    """The evaluated model's side: ids and scores of every row, computed once."""

    def __init__(self, shipping: ClassShipping, emitter: Emitter) -> None:
        self._shipping = shipping
        self._emitter = emitter
        self._task = class_task_of(shipping.tokenizer_folder, shipping.head, shipping.max_length, shipping.base.path)
        self._read = [self._task.read(each) for each in shipping.questions]
        evaluated = load_evaluated_classes(shipping.base, shipping.change, shipping.head)
        policy = ClassPolicy(evaluated, shipping.head.several).eval()
        self._scores = label_scores(policy, self._task, shipping.questions)

    def check(self, folder: Path) -> Parity:
        """Judge a folder in float32: ids, labels, number format, gap of scores, highest scores, the task's metric."""
        start, shipping = time.monotonic(), self._shipping
        artefact = load_with_head(folder, shipping.head, dtype=torch.float32)
        task = class_task_of(folder, shipping.head, shipping.max_length, folder)
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
            self._emitter.emit("progress", what=f"ship.{FORMAT}", done=place + 1, total=len(shipping.questions))
        rounded = stated_dtype(folder) not in ("float32", "float64")
        gap = Check("largest_logit_gap", max(gaps))
        checks = (
            Check("rows_with_other_ids", differing, 0, "at_most"),
            Check("weights_of_the_head_missing", len(artefact.new), 0, "at_most"),
            Check("top1_agreement", same / max(1, positions), shipping.limits.top1_safetensors, "at_least"),
            gap if rounded else Check("largest_logit_gap", max(gaps), _FLOAT32_GAP, "at_most"),
            Check("tensors_of_another_format", other_dtypes(folder), 0, "at_most"),
            self._metric(answers),
        )
        judge = f"transformers, torch {torch.__version__}, float32"
        return Parity(
            FORMAT, judge, len(shipping.questions), len(answers), positions, checks, round(time.monotonic() - start, 2)
        )

    def _metric(self, answers: Sequence[str]) -> Check:
        name, wanted = self._shipping.metric, [each.wanted for each in self._shipping.questions]
        own, other = (
            100 * score([name], texts, wanted).report.metrics[name] for texts in (self._shipping.answers, answers)
        )
        return Check(f"{name}_difference", round(abs(own - other), 9), self._shipping.limits.metric_points, "at_most")


@torch.inference_mode()
def _plain_scores(artefact: Loaded, task: ClassTask, question: Question) -> Tensor:
    """Scores by the model's own forward over one row, [K, C]."""
    read = task.read(question)
    token_ids = torch.tensor([read.token_ids], device=artefact.model.device)
    scores: Tensor = artefact.model(input_ids=token_ids).logits[0].float()
    if scores.ndim == 1:
        return scores[None]
    return scores[[place for place, weight in enumerate(read.weights) if weight]]
