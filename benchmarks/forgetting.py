"""What is forgotten while the demo's task is learned:  make bench-forgetting  or  python -m benchmarks.forgetting

Plain tuning, EWC and replay, each over the same seeds: the task's score, and how likely right choices are on a probe of
general knowledge (`general-en` of the shared data), question by question against plain tuning of that seed. Their
margin over wrong choices stands beside it: it rises where a model becomes surer, and is no sign of what was forgotten.

It is long, and runs in pieces: every training is a run of its own that goes on where it was broken off, the figures of
every question are kept as soon as they are there, and the same command does what is left, also on another day. The
table is of the seeds that all methods have.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Sitting, add_minutes, verdict, verdict_within
from benchmarks.report import RESULTS, Results, spread, table
from tunesmith import lifecycle
from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import read_json, write_atomic
from tunesmith.data.samples.tickets import write_tickets
from tunesmith.evaluate.forgetting import Margins, change_over_seeds, margins_path, read_margins

RECIPE = Path(__file__).with_suffix(".yaml")
SHARED = Path(os.environ.get("TUNESMITH_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")
POINTS = 0.01
"""Task scores count as equal within one point."""
PLAIN, BASE = "plain", "base"
SYSTEM, FORGETTING = "tunesmith", "forgetting"


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    seeds: tuple[int, ...]
    train: int
    validation: int
    test: int
    probe: int
    old: int


FULL = Sizes(seeds=(42, 43, 44, 45, 46), train=960, validation=48, test=200, probe=400, old=400)
QUICK = Sizes(seeds=(42, 43), train=32, validation=8, test=8, probe=40, old=16)


@dataclass(frozen=True)
class Bench:
    """One call of this benchmark."""

    folder: Path
    sizes: Sizes
    settings: Mapping[str, Sequence[str]]
    """Overrides of the recipe by the name of the method."""
    results: Results
    sitting: Sitting


# ------------------------------------------------------------------------------------------------ preparation


def settings(ewc: float, share: float, old_rows: int) -> dict[str, list[str]]:
    """What each method changes in the recipe."""
    old = "[{path: old.jsonl}]"
    return {
        PLAIN: [],
        "ewc": [f"stages.0.penalties={{ewc: {{weight: {ewc:g}, rows: {min(128, old_rows)}, sources: {old}}}}}"],
        "replay": [f"stages.0.replay={{share: {share:g}, sources: {old}}}"],
    }


def prepare(folder: Path, sizes: Sizes, old: Path) -> None:
    """Tickets, the probe and the old rows, always the same ones."""
    write_tickets(folder / "tickets", train=sizes.train, validation=sizes.validation, test=sizes.test, seed=7)
    probe = (SHARED / "general-en" / "probe.jsonl").read_text("utf-8").splitlines()
    write_atomic(folder / "probe.jsonl", "".join(f"{line}\n" for line in _spread_over(probe, sizes.probe)))
    rows = json.loads(old.read_text("utf-8")) if old.suffix == ".json" else _lines(old)
    chosen = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _spread_over(rows, sizes.old))
    write_atomic(folder / "old.jsonl", chosen)
    write_atomic(folder / "recipe.yaml", RECIPE.read_text("utf-8"))


def _lines(path: Path) -> list[object]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _spread_over(rows: Sequence[object], most: int) -> list[object]:
    """At most so many rows, from evenly spread places."""
    step = max(1.0, len(rows) / most)
    return [rows[int(place * step)] for place in range(min(most, len(rows)))]


# ------------------------------------------------------------------------------------------------ measurement


def train_and_ask(bench: Bench, method: str, seed: int) -> Path:
    """One training with its evaluation, or what is left of it; returns the run."""
    overrides = [*bench.settings[method], f"stages.0.train.seed={seed}", f"name={method}"]
    work = lifecycle.start(bench.folder / "recipe.yaml", overrides, bench.folder / "runs", ())
    for stage in (lifecycle.prepare_data, lifecycle.train, lifecycle.evaluate):
        stage(work)
    return work.path


def score_of(run: Path) -> float:
    """Exact answers to the task's test questions."""
    metrics = read_json(run / "evaluate" / "tuned.json")["metrics"]
    return float(metrics["json_exact"]) if isinstance(metrics, dict) else 0.0


def measure(bench: Bench) -> None:
    """Every method over every seed, as far as this sitting goes, then what there is to compare."""
    before = base_margins(bench)
    found = {
        (seed, method): _measured(bench, seed, method, before)
        for seed in bench.sizes.seeds
        for method in bench.settings
    }
    whole = [seed for seed in bench.sizes.seeds if all(found[seed, method] for method in bench.settings)]
    _show(bench, before, whole)
    if len(whole) == len(bench.sizes.seeds):
        _judge(bench, {method: [each for seed in whole if (each := found[seed, method])] for method in bench.settings})
    bench.results.write()


def base_margins(bench: Bench) -> Margins:
    """Of the untouched model, measured once."""
    kept = _kept(bench, FORGETTING, BASE)
    if kept is None:
        overrides = [f"stages.0.train.seed={bench.sizes.seeds[0]}", f"name={PLAIN}"]
        work = lifecycle.start(bench.folder / "recipe.yaml", overrides, bench.folder / "runs", ())
        for stage in (lifecycle.prepare_data, lifecycle.measure_baseline):
            stage(work)
        kept = read_margins(margins_path(work.path, 0, "base"))
        _keep(bench, FORGETTING, BASE, kept)
    return kept


def _measured(bench: Bench, seed: int, method: str, before: Margins) -> Margins | None:
    """A method with a seed: what an earlier call has kept, else measured; None where it is put off."""
    case = _case(seed)
    kept = _kept(bench, case, method)
    if kept is None and bench.sitting.takes():
        run = train_and_ask(bench, method, seed)
        kept = read_margins(margins_path(run, 0, "tuned"))
        bench.results.add(case, SYSTEM, _setting(bench, method), "json_exact", score_of(run))
        _keep(bench, case, method, kept)
    if kept is not None:
        (score,) = _runs(bench, case, method, "json_exact")
        lost = before.likelihood - kept.likelihood
        print(f"  seed {seed}  {method:<8}json_exact {score:.3f}, likelihood lost {lost:.4f}", flush=True)
    return kept


_QUESTIONS = {
    "margins": "margin_nats_a_question",
    "likelihoods": "likelihood_nats_a_question",
    "right": "right_a_question",
}


def _keep(bench: Bench, case: str, method: str, found: Margins) -> None:
    """Every question's figures, so that seeds measured on different days are compared question by question."""
    for name, metric in _QUESTIONS.items():
        for value in getattr(found, name):
            bench.results.add(case, SYSTEM, _setting(bench, method), metric, round(float(value), 5))
    bench.results.write()


def _kept(bench: Bench, case: str, method: str) -> Margins | None:
    found = {name: _runs(bench, case, method, metric) for name, metric in _QUESTIONS.items()}
    if not all(found.values()):
        return None
    return Margins(tuple(found["margins"]), tuple(found["likelihoods"]), tuple(map(bool, found["right"])))


def _case(seed: int) -> str:
    return f"{FORGETTING}, seed {seed}"


def _setting(bench: Bench, method: str) -> str:
    return "; ".join([method, f"{bench.sizes.train} rows", *bench.settings.get(method, ())])


def _runs(bench: Bench, case: str, method: str, metric: str) -> list[float]:
    return bench.results.runs(case, SYSTEM, _setting(bench, method), metric)


def _scores(bench: Bench, method: str, seeds: Sequence[int]) -> list[float]:
    return [score for seed in seeds for score in _runs(bench, _case(seed), method, "json_exact")]


def _show(bench: Bench, before: Margins, seeds: Sequence[int]) -> None:
    lines = []
    for method in bench.settings:
        found = [each for seed in seeds if (each := _kept(bench, _case(seed), method))]
        figures = (
            _scores(bench, method, seeds),
            [before.likelihood - each.likelihood for each in found],
            [before.mean - each.mean for each in found],
            [each.accuracy for each in found],
        )
        lines.append((method, *(spread(each, 4) for each in figures)))
    heads = (f"{len(seeds)} of {len(bench.sizes.seeds)} seeds", "json_exact", "likelihood lost", "margin lost", "right")
    print("\n" + table(heads, lines))
    facts = f"likelihood {before.likelihood:.4f}, margin {before.mean:.4f}, right choices {before.accuracy:.4f}"
    print(f"base: {facts}\n")


def _judge(bench: Bench, margins: Mapping[str, Sequence[Margins]]) -> None:
    for method in bench.settings:
        if method == PLAIN:
            continue
        for name in ("margins", "likelihoods"):
            own, plain = ([getattr(each, name) for each in margins[one]] for one in (method, PLAIN))
            kept = change_over_seeds(own, plain)
            case, setting = f"{FORGETTING}: {method} minus {PLAIN}, {len(own)} seeds", _setting(bench, method)
            for metric, value in {"value": kept.value, "low": kept.low, "high": kept.high}.items():
                if not bench.results.runs(case, SYSTEM, setting, f"{name}_{metric}"):
                    bench.results.add(case, SYSTEM, setting, f"{name}_{metric}", value)
            interval = f"{kept.value:+.4f} ({kept.low:+.4f} to {kept.high:+.4f})"
            print(f"  {method} minus plain tuning: {name} {interval} nats a token")
        verdict(
            f"{method}: the lower end of the likelihoods' interval above 0, in thousandths", [1000 * kept.low], 1e-9
        )
        worse = statistics.fmean(_scores(bench, PLAIN, bench.sizes.seeds)) - statistics.fmean(
            _scores(bench, method, bench.sizes.seeds)
        )
        verdict_within(f"{method}: points of the task's score below plain tuning", worse, POINTS)


# ------------------------------------------------------------------------------------------------------ parts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forgetting", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="a few rows and two seeds, to see that everything works")
    parser.add_argument("--folder", type=Path, default=Path("bench-forgetting"), help="where runs are kept and go on")
    parser.add_argument("--seeds", type=int, help="how many (default 5, quick 2)")
    parser.add_argument("--ewc", type=float, default=5.0, help="weight of EWC (default 5)")
    parser.add_argument("--share", type=float, default=0.1, help="share of replay (default 0.1)")
    parser.add_argument("--train", type=int, help="training rows (default 960, quick 32)")
    parser.add_argument("--probe", type=int, help="questions of the probe (default 400, quick 40)")
    parser.add_argument(
        "--old", type=Path, default=SHARED / "instruct-en" / "train.json", help="rows of what should not be forgotten"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "forgetting.json", help="where the figures go")
    add_minutes(parser)
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    asked = _arguments()
    size = QUICK if asked.quick else FULL
    sizes = Sizes(
        seeds=tuple(range(42, 42 + asked.seeds)) if asked.seeds else size.seeds,
        train=asked.train or size.train,
        validation=size.validation,
        test=size.test,
        probe=asked.probe or size.probe,
        old=size.old,
    )
    results = Results(asked.out)
    results.keep_earlier()
    print(results.headline(), flush=True)
    if not (SHARED / "general-en").is_dir() or not asked.old.is_file():
        results.note(f"left out: general-en below {SHARED} and {asked.old} are needed ($TUNESMITH_SHARED_DATA)")
        return
    folder = asked.folder.resolve()
    prepare(folder, sizes, asked.old)
    sitting = Sitting(asked.minutes)
    try:
        measure(Bench(folder, sizes, settings(asked.ewc, asked.share, sizes.old), results, sitting))
    except TunesmithError as error:
        if error.code != "train.interrupted":
            raise
        print("broken off; the same command goes on from here", flush=True)
    sitting.tell()
    print(f"\nfigures: {asked.out}")


if __name__ == "__main__":
    main()
