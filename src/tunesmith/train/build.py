"""The only assembly point: a stage of a recipe becomes the Job that the loop runs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn

from tunesmith.adapt.attach import attach
from tunesmith.adapt.base import Attached, copy_into, named_trainable
from tunesmith.adapt.groups import from_the_top, rate_factors, without_decay
from tunesmith.adapt.lora import LoraAttached, additions_of
from tunesmith.adapt.lora_experts import LoraExpertsAttached
from tunesmith.adapt.saved import check_base
from tunesmith.compat.check import check_quantized
from tunesmith.core.conditions import Conditions
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.seed import derive_seed
from tunesmith.models.beginning import context_of, places_before
from tunesmith.models.blocks import use_blocks
from tunesmith.models.experts import routers
from tunesmith.models.heads import draw_head
from tunesmith.models.linear_loss import CHUNK
from tunesmith.models.load import BaseFolder, Loaded, load_base
from tunesmith.models.low_rank import LowRank
from tunesmith.models.packed import Features
from tunesmith.models.policy import Policy
from tunesmith.models.quantized import form_of, held_numbers
from tunesmith.models.side_by_side import policy_of
from tunesmith.models.texts import TOKENIZER_FILES
from tunesmith.objectives.adversarial import Adversarial
from tunesmith.objectives.balance import Balanced
from tunesmith.objectives.base import Objective
from tunesmith.objectives.distill import Distill
from tunesmith.objectives.multitask import Multitask
from tunesmith.objectives.penalties import penalties_of
from tunesmith.objectives.supervised import Supervised
from tunesmith.objectives.told_apart import OldRowsToldApart
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.adapt import LoraExpertsSpec
from tunesmith.recipe.specs.groups import GroupsSpec, UnfreezeSpec
from tunesmith.recipe.specs.objectives import TARGET, AdversarialSpec, MultitaskSpec, SupervisedSpec
from tunesmith.recipe.specs.train import AUTO_ROWS, TrainSpec
from tunesmith.runtime.base import Runtime
from tunesmith.tasks.base import Task
from tunesmith.train.activations import kept_activations
from tunesmith.train.batching import Source, Windows
from tunesmith.train.budget import Budget, most_at_once
from tunesmith.train.checkpoint import Checkpoints
from tunesmith.train.curriculum import CURRICULUM, curriculum_source, kept_losses
from tunesmith.train.domain_validation import Validate, with_distance
from tunesmith.train.domains import adversarial_objective, classifier_rate, domain_source
from tunesmith.train.efficiency import Meter
from tunesmith.train.look_ahead import LookAhead, WindowTerm
from tunesmith.train.loop import Job
from tunesmith.train.memory import reader, release
from tunesmith.train.mixing import MixedSource
from tunesmith.train.old_task import kept_fisher
from tunesmith.train.optim import MasterOptimizer, default_learning_rate
from tunesmith.train.passes import FittedPasses, FixedPasses, Pack, Passes
from tunesmith.train.replay import ReplaySource
from tunesmith.train.stopper import Stopper
from tunesmith.train.teacher import TeacherModel, stage_teacher
from tunesmith.train.unfreezing import Unfreezing
from tunesmith.train.used_experts import kept_load
from tunesmith.train.validation import TaskMetric, Validator, no_task_metric

OWN = "own."
"""What the names of the objective's own module begin with in a policy."""
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class StageInputs:
    """What a stage is built from: the base in memory, encoded rows, where its files go, and what it depends on."""

    loaded: Loaded
    base: BaseFolder
    task: Task
    train_rows: Sequence[Features]
    validation_rows: Sequence[Features]
    folder: Path
    conditions: Conditions
    task_metric: TaskMetric
    accept_machine: bool = False
    old_rows: Mapping[str, Sequence[Features]] = field(default_factory=dict)
    """Encoded rows beside the new ones, by what the stage wants with them: ewc, replay, target."""
    kept: Path | None = None
    """Folder of the run's own stage, where what is measured once is kept; `folder` where none is stated."""
    tasks: Mapping[int, str] = field(default_factory=dict)
    """The task of every row, old ones too, by the row's number."""
    teacher: TeacherModel | None = None
    """Whose distribution is learned; nobody's, or one whose answers are the rows."""
    begin: Mapping[str, Tensor] = field(default_factory=dict)
    """Masters of the stage before, whose change is trained on; none where the stage begins one of its own."""
    begin_sha256: str = ""
    continued: bool = False
    """Whether the stage behind trains this one's change on."""

    @property
    def start_sha256(self) -> str:
        """What identifies the model that the stage starts from."""
        return f"{self.base.sha256} {self.begin_sha256}".rstrip()


def build(stage: StageSpec, inputs: StageInputs, runtime: Runtime, emitter: Emitter) -> Job:
    """Assemble a fit.

    Errors: train.nothing_to_train, train.beyond_context, those of `check_quantized`, `check_base` and the adaptation.
    """
    if not any(row.learned for row in inputs.train_rows):
        raise TunesmithError("train.nothing_to_train")
    form = form_of(inputs.loaded.model)
    check_quantized(stage, form)
    if isinstance(stage.adapt, LoraExpertsSpec) and stage.adapt.start is not None:
        check_base(inputs.base, Path(stage.adapt.start))
    spec = stage.train
    loaded = inputs.loaded
    policy = policy_of(loaded.model, loaded.head)
    policy.train()
    draw_head(loaded.model, loaded.new, spec.seed)
    new = frozenset(f"model.{name}" for name in loaded.new)
    seed = derive_seed(spec.seed, "adapter")
    encode = partial(loaded.tokenizer.encode, add_special_tokens=False)
    load = partial(
        kept_load, policy, inputs.train_rows, inputs.task.pack, inputs.kept or inputs.folder, inputs.base.sha256,
        runtime, emitter,
    )  # fmt: skip
    dense = partial(_dense, inputs)
    attached = attach(
        policy, stage.adapt, seed=seed, base_name=inputs.base.name, encode=encode, new=new, load=load, dense=dense
    )
    if isinstance(attached, LoraAttached) and attached.error is not None:
        emitter.emit("note", code="train.requantized", quantize=form, percent=round(100 * attached.error, 2))
    if form != "none":
        release(cycles=True)  # PEFT looks at every weight, which makes it dense once
    _refuse_rows_beyond_context(policy, inputs)
    moving, groups = named_trainable(policy, attached.trainable), stage.groups or GroupsSpec()
    if inputs.begin:
        copy_into(moving, inputs.begin)
    additions = additions_of(policy, attached)
    fisher, measured = _fisher(stage, inputs, policy, moving, additions, runtime, emitter)
    emitter.emit("blocks", fast=use_blocks(policy.model, spec.blocks))
    losses, ordered_by = _losses(stage, inputs, policy, runtime, emitter)
    source = _source(stage, inputs, losses, runtime, emitter)
    planned = max(1, math.ceil(spec.epochs * source.windows_per_epoch))
    total_steps = min(planned, spec.max_steps or planned)
    pack: Pack = inputs.task.pack
    conditions = inputs.conditions.and_input(CURRICULUM, ordered_by) if ordered_by else inputs.conditions
    if spec.blocks != "plain" and total_steps > source.windows_per_epoch:
        rows = [*inputs.train_rows, *inputs.validation_rows, *_rows_beside(inputs)]
        below = kept_activations(policy, attached.trainable, rows, inputs.base.sha256, runtime, emitter)
        if below is not None:
            policy.blocks_kept = below.blocks
            pack, conditions = below.packing(pack), conditions.and_input("activations", below.sha256)
    if spec.gradient_checkpointing:
        policy.model.activation_checkpointing_enable({"use_reentrant": False})
    domains = _domains(stage, inputs, policy, emitter)
    own = {name: each for name, each in policy.named_parameters() if name.startswith(OWN)}
    # What is cut by the memory shares its gradients itself, once a step: DDP must see the same passes on every rank.
    placed = policy.to(runtime.device) if spec.batch_size == "auto" else runtime.place(policy)
    _say_what_trains(policy, {**moving, **own}, emitter)
    judge = _objective(stage, inputs, policy, runtime, emitter)
    aim = domains or _told_apart(judge, stage, inputs)
    objective = _with_balance(aim, stage, policy)  # the aim itself, where no balance stands beside it
    terms = [each for each in dict.fromkeys((aim, objective)) if isinstance(each, WindowTerm)]
    peak = spec.learning_rate or default_learning_rate(stage.adapt)
    factors = rate_factors(policy.model, moving, groups)
    factors |= dict.fromkeys(own, classifier_rate(stage.objective) / peak)
    optimizer = MasterOptimizer({**moving, **own}, spec, factors, without_decay(moving, groups))
    masters = {name: each for name, each in optimizer.masters.items() if name in moving}
    begin = inputs.begin or (attached.begin if isinstance(attached, LoraExpertsAttached) else {})
    if begin:  # wider than the weights may be; what is missing (the classifier of domains) begins anew
        optimizer.restore({**optimizer.masters, **begin}, {})
    passes = _passes(spec, policy, pack, runtime, optimizer, emitter)
    return Job(
        policy=placed,
        objective=objective,
        runtime=runtime,
        source=source,
        look_ahead=LookAhead(terms, policy, runtime, spec.seed, total_steps),
        passes=passes,
        optimizer=optimizer,
        stopper=Stopper.of(spec.early_stopping),
        checkpoints=Checkpoints(
            inputs.folder,
            spec.save_total_limit,
            conditions,
            inputs.base.sha256,
            partial(_save_change, attached),
            partial(copy_tokenizer, inputs.base.path),
            emitter,
            inputs.accept_machine,
            inputs.continued,
        ),
        validate=_validation(stage, inputs, policy, judge, domains, passes, runtime),
        emitter=emitter,
        # asked in a turn for the first time when that turn's parameters move already
        meter=cache(lambda turn: Meter.of(policy, again=spec.gradient_checkpointing, device=runtime.device.type)),
        unfreezing=_unfreezing(policy, moving, groups.unfreeze, emitter),
        penalties=penalties_of(stage.penalties, masters, additions, fisher, measured),
        spec=spec,
        peak_learning_rate=peak,
        total_steps=total_steps,
    )


def _dense(inputs: StageInputs) -> nn.Module:
    """The base of a stage with its own weights, in the number format of the one that trains."""
    return load_base(inputs.base, inputs.loaded.model.dtype, inputs.loaded.head).model


def _validation(
    stage: StageSpec,
    inputs: StageInputs,
    policy: Policy,
    judge: Objective,
    domains: Adversarial | None,
    passes: Passes,
    runtime: Runtime,
) -> Validate:
    """What the stage is judged by. Errors: train.domains_too_few."""
    rows, targets = inputs.validation_rows, inputs.old_rows.get(TARGET, ())
    validate = Validator(policy, judge, runtime, rows, passes, inputs.task_metric)
    return with_distance(validate, domains, stage.train, policy, passes, runtime, rows, targets)


def _domains(stage: StageSpec, inputs: StageInputs, policy: Policy, emitter: Emitter) -> Adversarial | None:
    """The objective over two domains, where the stage has one."""
    if not isinstance(stage.objective, AdversarialSpec):
        return None
    return adversarial_objective(
        stage.objective, inputs.old_rows[TARGET], policy, derive_seed(stage.train.seed, "domains"), emitter
    )


def _save_change(attached: Attached, folder: Path, masters: Mapping[str, Tensor]) -> None:
    """The adaptation alone, in the ecosystem's form: the objective's own module is nobody's but the training's."""
    attached.save(folder, {name: each for name, each in masters.items() if not name.startswith(OWN)})


def _rows_beside(inputs: StageInputs) -> list[Features]:
    """Rows that steps hold beside those of data."""
    return [row for what in ("replay", TARGET) for row in inputs.old_rows.get(what, ())]


def _refuse_rows_beyond_context(policy: Policy, inputs: StageInputs) -> None:
    """A learned beginning takes its places from the context. Errors: train.beyond_context."""
    places, context = places_before(policy.model), context_of(policy.model) - policy.first_position
    longest = max(len(row.token_ids) for row in (*inputs.train_rows, *inputs.validation_rows))
    if places and places + longest > context:
        raise TunesmithError(
            "train.beyond_context", tokens=longest, places=places, context=context, most=context - places
        )


def _objective(stage: StageSpec, inputs: StageInputs, policy: Policy, runtime: Runtime, emitter: Emitter) -> Objective:
    """Toward what the stage is trained; answers of a teacher are rows like any others."""
    spec = stage.objective
    if isinstance(spec, SupervisedSpec):
        return Supervised(spec)
    if isinstance(spec, AdversarialSpec):  # what validation rows are judged by: they have labels, and one domain
        return Supervised(SupervisedSpec(label_smoothing=spec.label_smoothing))
    if isinstance(spec, MultitaskSpec):
        return Multitask(spec, inputs.tasks)
    if spec.level == "sequence":
        return Supervised(SupervisedSpec())
    if inputs.teacher is None:
        raise ValueError("a teacher's distribution is to be learned, and none was handed in")
    head: Tensor = policy.model.get_output_embeddings().weight
    rows = [*inputs.train_rows, *inputs.validation_rows, *_rows_beside(inputs)]
    folder, tokenizer = inputs.kept or inputs.folder, inputs.loaded.tokenizer
    teacher = stage_teacher(
        spec, inputs.teacher, tokenizer, head.shape[0], rows, inputs.task.pack, folder, runtime, emitter
    )
    return Distill(spec, teacher)


def _told_apart(objective: Objective, stage: StageSpec, inputs: StageInputs) -> Objective:
    """The objective with the losses of new and of old rows told apart, where old rows are replayed."""
    if stage.replay is None or not isinstance(objective, Supervised | Distill | Multitask):
        return objective
    tasks = inputs.tasks if isinstance(objective, Multitask) else {}
    return OldRowsToldApart(objective, {row.row: tasks.get(row.row, "") for row in inputs.old_rows["replay"]})


def _with_balance(objective: Objective, stage: StageSpec, policy: Policy) -> Objective:
    """The objective with the routers' balance beside it, where the stage asks for that."""
    weight = stage.penalties.router_balance if stage.penalties is not None else None
    if weight is None:
        return objective
    if not routers(policy.model):
        raise TunesmithError("adapt.no_experts", architecture=str(policy.model.config.model_type))
    return Balanced(objective, weight)


def _losses(
    stage: StageSpec, inputs: StageInputs, policy: Policy, runtime: Runtime, emitter: Emitter
) -> tuple[Sequence[float], str]:
    """Of every training row before the stage, where their order goes by it, and the hash of that measurement."""
    if stage.curriculum is None or stage.curriculum.by != "loss":
        return (), ""
    folder, start = inputs.kept or inputs.folder, inputs.start_sha256
    return kept_losses(policy, inputs.train_rows, inputs.task.pack, folder, start, runtime, emitter)


def _source(
    stage: StageSpec, inputs: StageInputs, losses: Sequence[float], runtime: Runtime, emitter: Emitter
) -> Windows:
    window, seed = stage.train.rows_per_step * runtime.size, stage.train.seed
    if isinstance(stage.objective, AdversarialSpec):
        both = domain_source(stage.objective, inputs.train_rows, inputs.old_rows[TARGET], window, seed)
        emitter.emit("note", code="train.domains", target=stage.objective.target_rows(window), rows=window)
        return both
    if stage.curriculum is not None:
        return curriculum_source(stage.curriculum, inputs.train_rows, losses, window, seed, emitter)
    if stage.replay is None:
        return _new_rows(stage, inputs, window, emitter)
    if window < 2:
        raise TunesmithError("train.replay_no_room", rows=window)
    old = stage.replay.old_rows(window)
    new = _new_rows(stage, inputs, window - old, emitter)
    emitter.emit("note", code="train.replay", old=old, rows=window)
    return ReplaySource(inputs.train_rows, inputs.old_rows["replay"], window, old, seed, new)


def _new_rows(stage: StageSpec, inputs: StageInputs, window: int, emitter: Emitter) -> Windows:
    """The rows of data, so many a step: of several tasks as they are mixed."""
    if not isinstance(stage.objective, MultitaskSpec):
        return Source(inputs.train_rows, window, stage.train.seed)
    mixed = MixedSource(inputs.train_rows, inputs.tasks, window, stage.objective, stage.train.seed)
    for task, rows in mixed.rows_by_task.items():
        emitter.emit("note", code="train.task", task=task, rows=rows)
    return mixed


def _fisher(
    stage: StageSpec,
    inputs: StageInputs,
    policy: Policy,
    moving: Mapping[str, nn.Parameter],
    additions: Sequence[LowRank],
    runtime: Runtime,
    emitter: Emitter,
) -> tuple[Mapping[str, Tensor], str]:
    """What the old task needs, where the stage holds it, and the hash of that measurement."""
    ewc = stage.penalties.ewc if stage.penalties is not None else None
    if ewc is None:
        return {}, ""
    if inputs.loaded.new and not inputs.begin:
        emitter.emit("note", code="train.fisher_new_head")
    rows, folder, base = inputs.old_rows["ewc"], inputs.kept or inputs.folder, inputs.start_sha256
    pack, seed = inputs.task.pack, stage.train.seed
    return kept_fisher(ewc, rows, policy, pack, moving, additions, seed, folder, base, runtime, emitter)


def validation_loss(stage: StageSpec, loaded: Loaded, task: Task, rows: Sequence[Features], runtime: Runtime) -> float:
    """Cross-entropy of a whole model on validation rows, whatever the stage was trained toward."""
    policy = policy_of(loaded.model, loaded.head)
    use_blocks(policy.model, stage.train.blocks)
    passes = FixedPasses(task.pack, runtime, AUTO_ROWS, AUTO_ROWS)
    placed = policy.to(runtime.device)
    return Validator(placed, Supervised(SupervisedSpec()), runtime, rows, passes, no_task_metric)()["loss"]


def _unfreezing(
    policy: Policy, moving: Mapping[str, nn.Parameter], spec: UnfreezeSpec | None, emitter: Emitter
) -> Unfreezing:
    turns = from_the_top(policy.model, moving, spec.blocks) if spec else []
    if spec and len(turns) < 2:
        raise TunesmithError("adapt.group_without_effect", setting="unfreeze")
    unfreezing = Unfreezing([[moving[name] for name in names] for names in turns], spec)
    if unfreezing.turns_left:
        first = sum(moving[name].numel() for name in turns[0])
        emitter.emit("note", code="train.unfreeze", first=first, left=unfreezing.turns_left)
    return unfreezing


def _passes(
    spec: TrainSpec, policy: Policy, pack: Pack, runtime: Runtime, optimizer: MasterOptimizer, emitter: Emitter
) -> Passes:
    if spec.batch_size != "auto":
        return FixedPasses(pack, runtime, spec.batch_size if spec.packing else 1, spec.batch_size)
    device, head = runtime.device, policy.head
    # logits and their gradient, each in the head's number format and in float32
    logit_bytes = 2 * head.shape[0] * (head.element_size() + 4)
    return FittedPasses(
        pack,
        runtime,
        optimizer,
        Budget(logit_bytes, CHUNK, again=spec.gradient_checkpointing, device=device.type),
        reader(device, runtime.size),
        emitter,
        most=most_at_once(device.type),
        window_rows=spec.rows_per_step * runtime.size,
    )


def _say_what_trains(policy: Policy, moving: Mapping[str, nn.Parameter], emitter: Emitter) -> None:
    counts = {name: parameter.numel() for name, parameter in policy.named_parameters()}
    trainable = sum(counts[name] for name in moving)
    emitter.emit("parameters", trainable=trainable, total=sum(counts.values()) + held_numbers(policy))


def copy_tokenizer(base: Path, folder: Path) -> None:
    """Put the base's own tokenizer and template files beside the weights, byte for byte."""
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
