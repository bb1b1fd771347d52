"""The demo's run from rows to answers, as `tunesmith demo` does it: its recipe, its sample rows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.exchange import Figures, Job
from tunesmith import lifecycle
from tunesmith.cli.init import RECIPE, ROWS, sample_recipe, write_sample
from tunesmith.core.events import Event
from tunesmith.core.process import peak_memory_bytes
from tunesmith.data.samples.tickets import write_tickets
from tunesmith.evaluate.answers import score_answers
from tunesmith.evaluate.examine import examine
from tunesmith.models.quantized import quantized_layers
from tunesmith.models.side_by_side import policy_of
from tunesmith.ship.merge import NOTHING_INSTEAD, merge_into
from tunesmith.ship.merge_base import weights_beside
from tunesmith.train.build import DTYPES
from tunesmith.work import Work

METRIC = "json_exact"


def run(job: Job) -> Figures:
    """Train one seed and answer the test questions; with a quantised base also as merged the other way.

    Options with a dot override the recipe; `rows` takes so few rows that it only shows whether everything works.
    """
    folder, seen, figures = Path(job.scratch), list[Event](), Figures()

    def hear(event: Event) -> None:
        seen.append(event)
        if event.kind == "fit_end":  # before both merges, which hold more than the training does
            figures["train_rss_gb"] = peak_memory_bytes() / 1e9

    work = lifecycle.start(_recipe(folder, job), _overrides(job), folder / "runs", (hear,))
    for stage in (lifecycle.prepare_data, lifecycle.plan, lifecycle.train):
        stage(work)
    figures["weights_gb"] = weights_bytes(work) / 1e9
    lifecycle.evaluate(work)
    told = {event.kind: event.values for event in seen}
    tuned = next(event.values for event in seen if event.kind == "result" and event.values["model"] == "tuned")
    speed, merged = told["efficiency"], told.get("merge_base", {})
    figures |= {METRIC: 100 * _number(tuned[METRIC]), "tokens_per_s": _number(speed["tokens_per_second"])}
    figures["seconds"] = _number(speed["seconds"])
    if merged:
        is_original = merged["chosen"] == "original"
        other = 100 * answered(work, beside=is_original)
        figures |= {
            "loss_original": _number(merged["loss_original"]),
            "loss_dequantized": _number(merged["loss_dequantized"]),
            f"{METRIC}_original": _as_float(figures[METRIC]) if is_original else other,
            f"{METRIC}_dequantized": other if is_original else _as_float(figures[METRIC]),
            "chose_original": float(is_original),
        }
    return figures


def _recipe(folder: Path, job: Job) -> Path:
    if "rows" not in job.options:
        return write_sample(folder)
    few = int(job.options["rows"])
    write_tickets(folder / ROWS["chat"], train=few, validation=few, test=few, seed=7)
    (folder / RECIPE).write_text(sample_recipe("chat"), "utf-8")
    return folder / RECIPE


def _overrides(job: Job) -> list[str]:
    stated = [f"{place}={value}" for place, value in job.options.items() if "." in place]
    return [f"stages.0.train.seed={job.seed}", f"runtime.threads={job.threads}", *stated]


def weights_bytes(work: Work) -> int:
    """Bytes of the base as it stands in memory while it trains."""
    model = work.load_to_train(work.recipe.stages[-1], work.base()).model
    held = sum(each.nbytes for layer in quantized_layers(model).values() for each in layer.buffers())
    return held + sum(each.nbytes for each in model.parameters())


def answered(work: Work, *, beside: bool) -> float:
    """The metric of the tuned model merged with the weights beside which it was trained, or with the base's own."""
    base, recipe = work.base(), work.recipe
    dtype = DTYPES[recipe.model.dtype]
    instead = weights_beside(base, recipe.model.quantize, dtype) if beside else NOTHING_INSTEAD
    loaded = merge_into(work.load(base), base, work.change, instead)
    questions = lifecycle.test_questions(work)
    policy = policy_of(loaded.model, loaded.head)
    answers = examine(policy, work.task, questions, recipe.evaluate, work.events, label="other merge")
    return score_answers(answers, questions, recipe.evaluate).scores.report.metrics[METRIC]


def _as_float(value: float | list[float]) -> float:
    if isinstance(value, list):
        raise TypeError(METRIC)
    return value


def _number(value: object) -> float:
    return float(str(value))
