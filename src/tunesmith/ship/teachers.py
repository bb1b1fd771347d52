"""Find the teacher of a stage: a base, a finished run whose tuned model teaches, or somebody behind an address."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.files import MANIFEST, read_json, sha256_file, user_path
from tunesmith.core.ledger import Ledger
from tunesmith.core.run import LOCK, Run
from tunesmith.data.formats.read import Note
from tunesmith.data.prepare import refuse_empty
from tunesmith.data.prepared import Prepared
from tunesmith.models.load import Loaded, load_model, resolve_base
from tunesmith.recipe.chain import learning_runs_rows
from tunesmith.recipe.load import load_recipe
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.hosted import HostedSpec
from tunesmith.recipe.specs.objectives import DistillSpec
from tunesmith.ship.merge import merge_into
from tunesmith.ship.received import received_base
from tunesmith.tasks.chat import ChatTask
from tunesmith.tasks.generator import KeptGenerator
from tunesmith.tasks.hosted_teacher import HostedTeacher
from tunesmith.tasks.local_teacher import LocalTeacher
from tunesmith.tasks.taught import AnsweringTeacher, taught
from tunesmith.train.build import DTYPES
from tunesmith.train.checkpoint import BEST
from tunesmith.train.teacher import TEACHER, TeacherModel

ANSWERS = "teacher_answers.jsonl"
"""In a run: what a teacher answered to the training prompts; to those of a stage's own rows, behind its name."""
GENERATED = "generator_answers.jsonl"
"""In a run: what a model answered where rows were made."""


def teacher_of_logits(recipe: Recipe, stage: StageSpec, folder: Path) -> TeacherModel | None:
    """Whose distribution a stage learns; None where it learns nobody's. Errors: those of `resolve_base` and `Run.open`.

    Args:
        folder: where the recipe's paths start.
    """
    spec = stage.objective
    return _model(recipe, spec.teacher, folder) if isinstance(spec, DistillSpec) and spec.level == "logits" else None


def config_in_memory(recipe: Recipe, stage: StageSpec, folder: Path) -> dict[str, object] | None:
    """The configuration of a teacher that stands in memory through the training; None where none does."""
    spec = stage.objective
    if not isinstance(spec, DistillSpec) or spec.top_k is not None:
        return None
    teacher = teacher_of_logits(recipe, stage, folder)
    return read_json(teacher.folder / "config.json") if teacher is not None else None


def with_answers(
    recipe: Recipe, prepared: Prepared, folder: Path, run_path: Path, ledger: Ledger, emitter: Emitter
) -> Prepared:
    """The training rows with a teacher's answers in place of their own, where a stage learns these.

    Errors: those of `taught`, of `resolve_base` and `Run.open`; data.nothing_left where it answered nothing, and
        tasks.teacher_refuses where that is because its service takes no such question.
    """

    def seen(done: int, total: int) -> None:
        emitter.emit("progress", what=TEACHER, done=done, total=total)

    for stage in recipe.stages:
        spec = stage.objective
        if isinstance(spec, DistillSpec) and spec.level == "sequence":
            teacher = _answering(recipe, spec.teacher, spec.hosted, spec.max_new_tokens, stage.train.max_length, folder)
            name = "train" if stage.data is None else f"{stage.name}-train"
            answers = run_path / (ANSWERS if stage.data is None else f"{stage.name}-{ANSWERS}")
            answered = taught(prepared.tables[name], teacher, answers, ledger, seen)
            if answered.is_empty() and isinstance(teacher, HostedTeacher) and teacher.refusal is not None:
                raise teacher.refusal
            prepared = prepared.admitting(name, answered)
            train = prepared.tables[name]
            refuse_empty({name: train}, ledger)
            note = Note("data.taught", {"rows": len(train), "teacher": spec.teacher})
            prepared = replace(prepared, notes=(*prepared.notes, note))
    return prepared


def generator_of(recipe: Recipe, folder: Path, run_path: Path, emitter: Emitter) -> KeptGenerator | None:
    """Who makes rows for the data room; None where the recipe asks nobody. The model is loaded with the first prompt.

    Errors (then): those of `resolve_base` and `Run.open`.
    """
    spec = recipe.data.augment.generator if recipe.data.augment is not None else None
    if spec is None:
        return None

    def seen(done: int, total: int) -> None:
        emitter.emit("progress", what="augment", done=done, total=total)

    longest = learning_runs_rows(recipe)[0].train.max_length
    make = partial(_answering, recipe, spec.model, spec.hosted, spec.max_new_tokens, longest, folder)
    return KeptGenerator(make, run_path / GENERATED, seen)


def _answering(
    recipe: Recipe, name: str, hosted: HostedSpec | None, max_new_tokens: int, max_length: int, folder: Path
) -> AnsweringTeacher:
    if hosted is not None:
        return HostedTeacher(hosted, name, max_new_tokens)
    model = _model(recipe, name, folder)
    task = ChatTask.of_folder(model.folder, max_length)
    return LocalTeacher(model.load(), model.sha256, task, max_new_tokens)


def _model(recipe: Recipe, name: str, folder: Path) -> TeacherModel:
    """The model of a name or folder; of a run the tuned one, as it is evaluated."""
    dtype = DTYPES[recipe.model.dtype]
    path = user_path(name, folder)
    if (path / LOCK).is_file():
        return _of_run(name, path, dtype, recipe.runtime.device)
    base = resolve_base(name, offline=recipe.model.offline or None)
    load = partial(load_model, base.path, dtype=dtype, device=recipe.runtime.device)
    return TeacherModel(name, base.sha256, base.path, load)


def _of_run(name: str, path: Path, dtype: torch.dtype, device: str) -> TeacherModel:
    """The base of a run with its best change merged. Errors: ship.other_base, those of `Run.check_files`."""
    run, recipe = Run.open(path), load_recipe(path / LOCK)
    spec, last = recipe.model, recipe.stages[-1]
    change = path / last.name / BEST
    base = resolve_base(spec.base, revision=spec.revision, offline=spec.offline or None)
    trained = str(run.manifest()["base_sha256"])
    if trained != base.sha256:
        given = base.sha256[:12]
        raise TunesmithError("ship.other_base", path=str(change), trained=trained[:12], given=given, base=base.name)
    if not (change / MANIFEST).is_file():
        raise TunesmithError("ship.missing_change", path=str(change))
    run.check_files(f"{last.name}/{BEST}")
    received = received_base(run, recipe, last, base)

    def load() -> Loaded:
        return merge_into(load_model(received.path, dtype=dtype, device=device), received, change)

    return TeacherModel(name, f"{received.sha256} {sha256_file(change / MANIFEST)}", received.path, load)
