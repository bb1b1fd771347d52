"""Refuse what a recipe asks for and no code does: a combination that means nothing must not run as something else."""

from __future__ import annotations

from tunesmith.compat.chain import check_chain
from tunesmith.compat.heads import check_heads
from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.chain import data_of
from tunesmith.recipe.recipe import Recipe, StageSpec
from tunesmith.recipe.specs.adapt import ExpertsSpec, FullSpec, LoraSpec, SubsetSpec
from tunesmith.recipe.specs.data import RowsSpec
from tunesmith.recipe.specs.evaluate import METRICS_OF_ROWS
from tunesmith.recipe.specs.model import Quantize
from tunesmith.recipe.specs.objectives import AdversarialSpec, MultitaskSpec
from tunesmith.recipe.specs.ship import BESIDE, WITHOUT_GGUF
from tunesmith.recipe.specs.train import ADAPTED_LOSS, LOSSES

ROWS_OF_OBJECTIVE = {
    "supervised": ("chat", "text_class", "multi_label", "token_class"),
    "distill": ("chat",),
    "multitask": ("chat",),
    "adversarial": ("text_class", "multi_label", "token_class"),
}
"""Kinds of rows that an objective learns from and the evaluation can ask about."""

HELD_BY_EWC = ("full", "subset", "lora")
"""Adaptations that move the model's own weights, so that there is something an old task needs."""

TASK_METRICS = {
    "chat": ("json_exact", "json_valid", "exact_match", "rouge_l", "bleu_4"),
    "text_class": ("accuracy", "macro_f1", "micro_f1"),
    "token_class": ("entity_f1", "token_accuracy"),
}


def check(recipe: Recipe) -> None:
    """Hold a recipe against what exists.

    Errors: compat.untrained_task, compat.rows, compat.rows_of_task, compat.metric_of_task, compat.format_of_task,
    compat.target_metric, compat.stopping_metric, compat.auto_batch_unpacked, compat.unfreeze_distributed,
    compat.penalty_adaptation, compat.format_needs_merge, compat.whole_weights, compat.dropout_of_task,
    compat.one_task, compat.unknown_task, compat.curriculum_order, compat.curriculum_loss, compat.forgetting_of_task,
    compat.adversarial_replay, compat.no_domain_distance, and those of `check_quantized`,
    `check_heads` and `check_chain`.
    """
    check_trained(recipe)
    _check_target(recipe)
    _check_metrics(recipe)
    _check_forgetting(recipe)
    _check_formats(recipe)
    _check_dropout(recipe)
    for place, stage in enumerate(recipe.stages):
        _check_rows(recipe, stage)
        _check_stopping(recipe, stage, place)
        _check_batch(stage, place)
        _check_unfreezing(recipe, stage, place)
        _check_penalties(stage, place)
        check_quantized(stage, recipe.model.quantize)
        _check_tasks(recipe, stage, place)
        check_heads(recipe, stage, place)
        _check_curriculum(recipe, stage, place)
        _check_domains(stage, place)
    check_chain(recipe)


def check_trained(recipe: Recipe) -> None:
    """Rows about pictures and sounds are prepared and looked at; nothing learns from them yet.

    Errors: compat.untrained_task.
    """
    for data in (recipe.data, *(data_of(recipe, stage) for stage in recipe.stages)):
        if data.task not in TASK_METRICS:
            raise TunesmithError("compat.untrained_task", task=data.task, known=", ".join(TASK_METRICS))


def _check_target(recipe: Recipe) -> None:
    target, measured = recipe.goal.target, recipe.evaluate.metrics
    if target is not None and target.metric not in measured:
        raise TunesmithError("compat.target_metric", metric=target.metric, measured=", ".join(measured))


def _check_metrics(recipe: Recipe) -> None:
    known = _known_metrics(recipe.data)
    for metric in recipe.evaluate.metrics:
        if metric not in known:
            raise TunesmithError("compat.metric_of_task", metric=metric, task=recipe.data.task, known=", ".join(known))


def _known_metrics(data: RowsSpec) -> tuple[str, ...]:
    """What rows are measured by: the figures of their task, or of any of their tasks."""
    if data.tasks is None:
        return TASK_METRICS[data.task]
    return tuple(dict.fromkeys(name for rows in data.tasks.values() for name in METRICS_OF_ROWS[rows]))


def _check_formats(recipe: Recipe) -> None:
    """What cannot be merged is published beside its base, and what is no addition to a base is not."""
    adapt = recipe.stages[-1].adapt
    merged = [each for each in recipe.formats if each not in BESIDE]
    if merged and not adapt.mergeable:
        raise TunesmithError("compat.format_needs_merge", kind=adapt.kind, formats=", ".join(merged))
    if isinstance(adapt, FullSpec) and len(merged) < len(recipe.formats):
        raise TunesmithError("compat.whole_weights", kind=adapt.kind)
    if recipe.data.task != "chat":
        holds_a_head = WITHOUT_GGUF if adapt.mergeable else BESIDE
        for kind in recipe.formats:
            if kind not in holds_a_head:
                known = ", ".join(holds_a_head)
                raise TunesmithError("compat.format_of_task", format=kind, task=recipe.data.task, known=known)


def _check_dropout(recipe: Recipe) -> None:
    if recipe.model.dropout is not None and all(data_of(recipe, stage).task == "chat" for stage in recipe.stages):
        raise TunesmithError("compat.dropout_of_task", task=recipe.data.task, share=str(recipe.model.dropout))


def _check_forgetting(recipe: Recipe) -> None:
    """Probes ask for the next token, before and after: a model with a head of its own gives none."""
    if recipe.evaluate.forgetting and recipe.data.task != "chat":
        raise TunesmithError("compat.forgetting_of_task", task=recipe.data.task)


def _check_tasks(recipe: Recipe, stage: StageSpec, place: int) -> None:
    """A task is a source: there are several, and whatever names one names one of them.

    A source of replayed rows is a task of its own where a weight names it: a slip of the pen in its name is none.
    """
    if not isinstance(stage.objective, MultitaskSpec):
        return
    data, weights = data_of(recipe, stage), stage.objective.weights
    replayed = [source.title for source in stage.replay.sources] if stage.replay is not None else []
    known = [source.title for source in data.sources]
    known += [name for name in replayed if name in (data.tasks or weights)]
    if len(set(known)) < 2:
        raise TunesmithError("compat.one_task", place=place)
    for name in [*weights, *(source.title for source in data.validation_sources), *replayed]:
        if name not in known:
            raise TunesmithError("compat.unknown_task", place=place, task=name, known=", ".join(dict.fromkeys(known)))


def _check_domains(stage: StageSpec, place: int) -> None:
    """Rows of a step come from two domains and nowhere else."""
    if isinstance(stage.objective, AdversarialSpec) and stage.replay is not None:
        raise TunesmithError("compat.adversarial_replay", place=place)


def _check_curriculum(recipe: Recipe, stage: StageSpec, place: int) -> None:
    """One order of one set of rows; a head that is drawn anew finds all of them equally hard."""
    if stage.curriculum is None:
        return
    others = {"multitask": isinstance(stage.objective, MultitaskSpec), "replay": stage.replay is not None}
    others["adversarial"] = isinstance(stage.objective, AdversarialSpec)
    for other, stated in others.items():
        if stated:
            raise TunesmithError("compat.curriculum_order", place=place, other=other)
    task = data_of(recipe, stage).task
    if stage.curriculum.by == "loss" and task != "chat":
        raise TunesmithError("compat.curriculum_loss", place=place, task=task)


def _check_rows(recipe: Recipe, stage: StageSpec) -> None:
    data = data_of(recipe, stage)
    classes = [each for each in (data.kind, data.task) if each in ("text_class", "token_class")]
    if classes and data.kind != data.task:
        raise TunesmithError("compat.rows_of_task", rows=data.rows, task=data.task)
    known = ROWS_OF_OBJECTIVE[stage.objective.kind]
    if data.rows not in known and data.tasks is None:
        raise TunesmithError("compat.rows", rows=data.rows, objective=stage.objective.kind, known=", ".join(known))


def _check_stopping(recipe: Recipe, stage: StageSpec, place: int) -> None:
    """A figure that decides is one that validation gives; a classifier that is trained against measures no distance."""
    metric, spec = stage.train.early_stopping.metric, stage.objective
    if metric == ADAPTED_LOSS and not (isinstance(spec, AdversarialSpec) and spec.has_distance):
        raise TunesmithError("compat.no_domain_distance", place=place, metric=metric)
    known = (*LOSSES, *_known_metrics(data_of(recipe, stage)))
    if metric not in known:
        raise TunesmithError("compat.stopping_metric", metric=metric, place=place, known=", ".join(known))


def _check_batch(stage: StageSpec, place: int) -> None:
    if stage.train.batch_size == "auto" and not stage.train.packing:
        raise TunesmithError("compat.auto_batch_unpacked", place=place)


def _check_unfreezing(recipe: Recipe, stage: StageSpec, place: int) -> None:
    if stage.groups is not None and stage.groups.unfreeze is not None and recipe.runtime.kind == "distributed":
        raise TunesmithError("compat.unfreeze_distributed", place=place)


def _check_penalties(stage: StageSpec, place: int) -> None:
    """What is held must be numbers of the model's own weights: those that move, or the product of a plain LoRA."""
    if stage.penalties is None:
        return
    adapt = stage.adapt
    is_dora = isinstance(adapt, LoraSpec) and adapt.use_dora
    held = {
        "ewc": stage.penalties.ewc is not None and (is_dora or adapt.kind not in HELD_BY_EWC),
        "l2_sp": stage.penalties.l2_sp is not None and is_dora,
    }
    for penalty, refused in held.items():
        if refused:
            raise TunesmithError(
                "compat.penalty_adaptation",
                place=place,
                penalty=penalty,
                adaptation="dora" if is_dora else adapt.kind,
                known=", ".join(HELD_BY_EWC),
            )


_BESIDE_THE_CODES = frozenset({"norm", "bias", "embedding", "head"})
"""Parts that are never quantised."""


def check_quantized(stage: StageSpec, quantize: Quantize) -> None:
    """Refuse to train weights that stand in codes. Errors: compat.quantized_weights."""
    adapt = stage.adapt
    if quantize == "none":
        return
    beside = isinstance(adapt, SubsetSpec) and adapt.parts and not adapt.parameters
    if isinstance(adapt, FullSpec | ExpertsSpec) or (
        isinstance(adapt, SubsetSpec) and not (beside and set(adapt.parts) <= _BESIDE_THE_CODES)
    ):
        raise TunesmithError("compat.quantized_weights", stage=stage.name, kind=adapt.kind, quantize=quantize)
