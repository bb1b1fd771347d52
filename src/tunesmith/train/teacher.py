"""The teacher of a stage: held against the student's tokenizer, then asked in every pass or once for all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.models.blocks import use_blocks
from tunesmith.models.load import Loaded
from tunesmith.models.packed import Features, Packed
from tunesmith.models.policy import Policy
from tunesmith.objectives.distill import Teacher, TeacherInMemory, TeacherKept, most_likely, unseen
from tunesmith.recipe.specs.objectives import DistillSpec
from tunesmith.runtime.base import Runtime
from tunesmith.train.kept import kept_tensors
from tunesmith.train.old_task import rows_digest

TEACHER = "teacher"
"""Folder of the kept tokens, in the folder of the stage."""
_READS = ("normalizer", "pre_tokenizer", "model", "added_tokens")
"""Parts of a tokenizer that decide which text becomes which tokens."""


@dataclass(frozen=True)
class TeacherModel:
    """A teacher's name, the hash of its weights, and the folder of its tokenizer.

    `load` puts it into memory; it is called where that is really needed.
    """

    name: str
    sha256: str
    folder: Path
    load: Callable[[], Loaded]


def stage_teacher(
    spec: DistillSpec,
    model: TeacherModel,
    tokenizer: PreTrainedTokenizerFast,
    vocabulary: int,
    rows: Sequence[Features],
    pack: Callable[[Sequence[Features]], Packed],
    folder: Path,
    runtime: Runtime,
    emitter: Emitter,
) -> Teacher:
    """The teacher as the objective asks it.

    Args:
        tokenizer: the student's.
        vocabulary: rows of the student's head.
        rows: all that are trained on or validated with.
        folder: of the stage.

    Errors: train.teacher_tokenizer, those of `kept_tensors`.
    """

    def in_memory() -> TeacherInMemory:
        loaded = model.load()
        refuse_other_tokens(model.name, loaded.tokenizer, tokenizer)
        policy = Policy(loaded.model).to(runtime.device)
        use_blocks(policy.model, "auto")
        policy.requires_grad_(False).eval()
        return TeacherInMemory(policy, vocabulary, spec.temperature)

    if spec.top_k is None:
        return in_memory()
    asked, tokens = unseen(rows), spec.top_k
    facts: Mapping[str, str] = {
        "teacher": model.sha256,
        "rows": rows_digest(asked),
        "temperature": str(spec.temperature),
        "top_k": str(tokens),
    }

    def seen(done: int) -> None:
        emitter.emit("progress", what=TEACHER, done=done, total=len(asked))

    kept, _ = kept_tensors(
        folder / TEACHER, facts, lambda: most_likely(in_memory(), asked, pack, tokens, runtime.device, seen), runtime
    )
    return TeacherKept(kept)


def refuse_other_tokens(name: str, theirs: PreTrainedTokenizerFast, ours: PreTrainedTokenizerFast) -> None:
    """Probabilities are of tokens: both must read a text as the same ones. Errors: train.teacher_tokenizer."""
    left, right = (_reading(each.backend_tokenizer) for each in (theirs, ours))
    for part in _READS:
        if left.get(part) != right.get(part):
            raise TunesmithError("train.teacher_tokenizer", teacher=name, part=part)


def _reading(tokenizer: Tokenizer) -> dict[str, object]:
    values = json.loads(tokenizer.to_str())
    return values if isinstance(values, dict) else {}
