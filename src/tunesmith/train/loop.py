"""fit(): the only training loop.

One optimizer step: draw the window, cut it into micro-batches (`passes.py`), count what it holds, forward and backward
each micro-batch with every term divided by the count of the whole window on all ranks, then update. What must see the
whole window first does (`look_ahead.py`). Nothing here knows which method or objective runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter, Value
from tunesmith.messages import say
from tunesmith.models.packed import Packed
from tunesmith.objectives.base import Objective, is_told
from tunesmith.objectives.penalties import Penalties
from tunesmith.recipe.specs.train import TrainSpec
from tunesmith.runtime.base import Runtime, seed_pass
from tunesmith.train.batching import Windows
from tunesmith.train.checkpoint import Checkpoints, Snapshot
from tunesmith.train.efficiency import Meter, Work
from tunesmith.train.look_ahead import LookAhead
from tunesmith.train.optim import MasterOptimizer, step_size
from tunesmith.train.passes import Passes
from tunesmith.train.signals import StopRequest, listening
from tunesmith.train.stopper import Stopper
from tunesmith.train.unfreezing import Unfreezing

BAD_STEPS_ALLOWED = 3
"""Steps in a row whose loss or gradient is no number before the run stops; none of them is applied."""


@dataclass(frozen=True)
class Job:
    """One fit, assembled by `build`: everything the loop calls. `meter` is asked by the turn of the unfreezing."""

    policy: nn.Module
    objective: Objective
    runtime: Runtime
    source: Windows
    look_ahead: LookAhead
    passes: Passes
    optimizer: MasterOptimizer
    stopper: Stopper
    checkpoints: Checkpoints
    validate: Callable[[], Mapping[str, float]]
    emitter: Emitter
    meter: Callable[[int], Meter]
    unfreezing: Unfreezing
    penalties: Penalties
    spec: TrainSpec
    peak_learning_rate: float
    total_steps: int


@dataclass
class Progress:
    """Where the loop is. Seconds, tokens and FLOPs add up over interruptions.

    `skipped_steps` were not applied, because their loss or gradient was no number; `bad_steps` is how many of them came
    last, one after the other. `saved_step` is that of the newest checkpoint.
    """

    step: int = 0
    saved_step: int = 0
    tokens: int = 0
    shared_tokens: int = 0
    needed_flops: float = 0.0
    executed_flops: float = 0.0
    seconds: float = 0.0
    bad_steps: int = 0
    skipped_steps: int = 0
    stopped_early: bool = False

    @property
    def work(self) -> Work:
        """All that was computed, on all ranks."""
        return Work(self.tokens, self.needed_flops, self.executed_flops, self.shared_tokens)

    def add(self, work: Work) -> None:
        """Count a step's work."""
        self.tokens += int(work.tokens)
        self.shared_tokens += int(work.shared)
        self.needed_flops += work.needed
        self.executed_flops += work.executed


@dataclass(frozen=True)
class FitResult:
    """How a fit ended."""

    progress: Progress
    stopper: Stopper

    def facts(self) -> dict[str, Value]:
        """For the event that ends a fit."""
        return {
            "steps": self.progress.step,
            "tokens": self.progress.tokens,
            "seconds": round(self.progress.seconds, 3),
            "skipped_steps": self.progress.skipped_steps,
            "best_step": self.stopper.best_step,
            "best_value": self.stopper.best_value,
            "stopped_early": self.progress.stopped_early,
        }


def fit(job: Job, until: int | None = None) -> FitResult:
    """Train from the newest whole checkpoint (or from the start) to the end, or to step `until`, saved there too.

    Errors: core.too_little_space before the first step; train.not_finite after too many bad steps;
        train.no_good_validation where no validation gave a number; train.interrupted after a signal, with all saved.
    """
    progress = _resume(job)
    _require_space(job, progress)
    with listening() as request:
        while progress.step < min(until or job.total_steps, job.total_steps) and not progress.stopped_early:
            started = time.perf_counter()
            update = _step(job, progress)
            progress.seconds += time.perf_counter() - started
            _note(job, progress, update)
            if job.unfreezing.after_step(progress.step):
                _say_unfrozen(job, progress)
            _look_around(job, progress)
            _obey(job, progress, request)
    if until is not None:
        _save_unless_saved(job, progress)
    elif job.stopper.best_value is None:
        raise TunesmithError("train.no_good_validation", metric=job.stopper.metric, step=progress.step)
    elif job.unfreezing.turns_left:
        job.emitter.emit("note", code="train.still_frozen", left=job.unfreezing.turns_left)
    return FitResult(progress, job.stopper)


@dataclass(frozen=True)
class _Update:
    """What one step did: mean of each term over the window, gradient norm before clipping, step size, work."""

    losses: Mapping[str, float]
    norm: float
    rate: float
    work: Work

    @property
    def applied(self) -> bool:
        return all(math.isfinite(value) for value in (self.norm, *self.losses.values()))


def _step(job: Job, progress: Progress) -> _Update:
    """One update over one window."""
    runtime, spec = job.runtime, job.spec
    window = job.source.window(progress.step)
    batches = job.passes.cut(progress.step, window)
    counts = _total_counts(job, batches)
    job.look_ahead.begin(progress.step)

    def one_pass(batch: Packed, place: int, last: bool) -> dict[str, float]:
        seed_pass(runtime, spec.seed, progress.step, place)
        with runtime.accumulate(last):
            terms = job.objective.loss(job.policy, batch.to(runtime.device))
            job.passes.forward_done()
            # Gradients are averaged over ranks; the contract wants their sum.
            trained = [name for name in counts if not is_told(name)]
            total = torch.stack([terms[name] * (runtime.size / (counts[name] or 1.0)) for name in trained]).sum()
            total.backward()
        if runtime.gradients_ready(last):
            job.optimizer.collect()
        return {name: float(terms[name].detach()) for name in counts}

    ran = job.passes.run(progress.step, window, batches, one_pass, job.look_ahead)
    # What the weights cost is the same on every rank and in every micro-batch: once a step.
    losses = {**_mean_terms(job, ran.sums, counts), **job.penalties.add()}
    rate = step_size(spec, job.peak_learning_rate, progress.step, job.total_steps)
    usable = all(math.isfinite(loss) for loss in losses.values())
    norm = job.optimizer.step(rate, spec.max_grad_norm, usable=usable)
    work = job.meter(job.unfreezing.turn).of_batches(ran.batches, reads=job.look_ahead.reads(ran.batches))
    return _Update(losses, norm, rate, Work(*job.runtime.sum(work)))


def _total_counts(job: Job, batches: Sequence[Packed]) -> dict[str, float]:
    """Items of every term in the whole window, on all ranks."""
    local: dict[str, float] = {}
    for batch in batches:
        for name, count in job.objective.count(batch).items():
            local[name] = local.get(name, 0.0) + count
    summed = job.runtime.sum(list(local.values()))
    return dict(zip(local, summed, strict=True))


def _mean_terms(job: Job, sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """The mean of each term over the window, and as `loss` the sum of those that train.

    Of nothing there is no mean: a window without any item has no loss, and of what is only told nothing is told.
    """
    total = job.runtime.sum(list(sums.values()))
    if not any(counts.values()):
        return dict.fromkeys(("loss", *sums), math.nan)
    means = {name: value / (counts[name] or 1.0) for name, value in zip(sums, total, strict=True)}
    told = {name: mean for name, mean in means.items() if is_told(name)}
    shown = {name: mean for name, mean in means.items() if name not in told or counts[name]}
    return {"loss": sum(mean for name, mean in means.items() if name not in told), **shown}


def _note(job: Job, progress: Progress, update: _Update) -> None:
    """Count the step; a step that was no number is said, never averaged away, and too many of them end the run."""
    progress.step += 1
    progress.add(update.work)
    progress.bad_steps = 0 if update.applied else progress.bad_steps + 1
    progress.skipped_steps += not update.applied
    if progress.step % job.spec.logging_steps == 0 or not update.applied:
        job.emitter.emit(
            "step",
            step=progress.step,
            total_steps=job.total_steps,
            epoch=round(progress.step / job.source.windows_per_epoch, 4),
            learning_rate=update.rate,
            gradient_norm=update.norm,
            tokens=progress.tokens,
            seconds=round(progress.seconds, 3),
            applied=update.applied,
            **update.losses,
        )
    if not update.applied:
        job.emitter.emit("alarm", code="train.step_not_applied", step=progress.step)
    if progress.bad_steps >= BAD_STEPS_ALLOWED:
        raise TunesmithError(
            "train.not_finite", step=progress.step, steps=BAD_STEPS_ALLOWED, last_good=_last_good(job, progress)
        )


def _last_good(job: Job, progress: Progress) -> str:
    """The newest state on disk that is known to be good, in words.

    The step before the first bad one may be what spoilt the weights; those before it still gave a number afterwards.
    """
    found = job.checkpoints.newest_until(progress.step - progress.bad_steps - 1)
    return say("train.no_good_state") if found is None else str(found)


def _look_around(job: Job, progress: Progress) -> None:
    """Validate and save where the recipe says so: after every epoch and at the end unless it names steps.

    Nothing is saved after a step that was not applied: it would push good checkpoints out.
    """
    if _validates_at(job, progress.step):
        _validate(job, progress)
    if _saves_at(job, progress.step) and not progress.bad_steps:
        _save(job, progress)


def _validates_at(job: Job, step: int) -> bool:
    return step == job.total_steps or step % (job.spec.eval_steps or job.source.windows_per_epoch) == 0


def _saves_at(job: Job, step: int) -> bool:
    return _validates_at(job, step) or bool(job.spec.save_steps and step % job.spec.save_steps == 0)


def _validate(job: Job, progress: Progress) -> None:
    figures = job.validate()
    value = figures[job.stopper.metric]
    best = job.stopper.see(value, progress.step)
    if job.unfreezing.after_validation(best):
        job.stopper.without_gain = 0  # what moves now has had no time to gain anything
        _say_unfrozen(job, progress)
    progress.stopped_early = job.runtime.agree(job.stopper.stop)
    job.emitter.emit("validation", step=progress.step, best=best, **figures)
    if best and job.runtime.rank == 0:
        job.checkpoints.save_best(job.optimizer.masters, progress.step, value)
    if not math.isfinite(value):
        job.emitter.emit("alarm", code="train.validation_not_finite", step=progress.step)


def _say_unfrozen(job: Job, progress: Progress) -> None:
    job.emitter.emit("unfrozen", step=progress.step, turn=job.unfreezing.turn, turns_left=job.unfreezing.turns_left)


def _save_unless_saved(job: Job, progress: Progress) -> None:
    if progress.saved_step != progress.step:
        _save(job, progress)


def _save(job: Job, progress: Progress) -> None:
    """Write a checkpoint; weights that are no numbers are never saved as if they were good."""
    if not job.optimizer.finite:
        job.emitter.emit("alarm", code="train.weights_not_finite", step=progress.step)
    else:
        facts = {
            "progress": {**vars(progress), "saved_step": progress.step},
            "stopper": job.stopper.state(),
            "objective": job.objective.state(),
            "passes": job.passes.state(),
            "unfreezing": job.unfreezing.state(),
            "penalties": job.penalties.state(),
        }
        if job.runtime.rank == 0:
            job.checkpoints.save(Snapshot(progress.step, job.optimizer.masters, job.optimizer.state(), facts))
        progress.saved_step = progress.step
    job.runtime.barrier()


def _require_space(job: Job, progress: Progress) -> None:
    if job.runtime.rank == 0:
        held = sum(each.nbytes for each in job.optimizer.state().values())
        saves = sum(_saves_at(job, step) for step in range(progress.step + 1, job.total_steps + 1))
        job.checkpoints.require_space(job.optimizer.masters, held + job.optimizer.coming_bytes, saves)


def _resume(job: Job) -> Progress:
    snapshot = job.checkpoints.newest()
    if snapshot is None:
        return Progress()
    facts = {name: value for name, value in snapshot.facts.items() if isinstance(value, dict)}
    job.optimizer.restore(snapshot.masters, snapshot.optimizer)
    job.stopper.restore(facts["stopper"])
    job.objective.restore(facts["objective"])
    job.passes.restore(facts.get("passes", {}))
    job.unfreezing.restore(facts["unfreezing"])
    job.penalties.restore(facts.get("penalties", {}))
    progress = Progress(**facts["progress"])
    job.emitter.emit("resume", step=progress.step)
    return progress


def _obey(job: Job, progress: Progress, request: StopRequest) -> None:
    """A signal on any rank: save where we are, unless that is done or the last step was no good, and leave."""
    if job.runtime.agree(bool(request)):
        if not progress.bad_steps:
            _save_unless_saved(job, progress)
        raise TunesmithError("train.interrupted", step=progress.saved_step, signal=int(request.signal_number or 15))
