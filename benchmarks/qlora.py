"""QLoRA beside LoRA:  make bench-qlora  or  python -m benchmarks.qlora [--quick]

task    the demo's task from rows to answers, three seeds: exact answers on its test questions, memory, both merges
speed   the same loop over the same rows with the base as it is and in codes: what making weights dense again costs

Each measurement is a process of its own, and its figures are kept at once: the same command does what is left, as long
as machine and versions are the same. `--minutes 10` begins none after ten; `--case task --seed 2 --only nf4` names one.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench import (
    Sitting,
    Workshop,
    add_minutes,
    number,
    ratios,
    verdict,
    verdict_within,
    with_options,
)
from benchmarks.exchange import Figures
from benchmarks.report import RESULTS, Results, spread, table
from benchmarks.shapes import make_rows
from benchmarks.systems import OURS, System
from tunesmith.core.process import available_cores

SEEDS = (1, 2, 3)
QUANTIZE = "model.quantize"
LORA = System("tunesmith", "lora", "demo_run", hold_memory=True)
SYSTEMS = (LORA, *(replace(LORA, setting=f"qlora {form}", options={QUANTIZE: form}) for form in ("nf4", "int8")))
TASK, SPEED, SHAPE = "demo task", "same loop", "long-prompt"
POINTS = 1.0
"""How far QLoRA may be below LoRA on the demo's metric, in points of 100: means over the seeds."""
FEW = {"rows": "16", "stages.0.train.max_steps": "2", "evaluate.max_rows": "4"}


@dataclass(frozen=True)
class Bench:
    """One call of this benchmark."""

    workshop: Workshop
    results: Results
    systems: tuple[System, ...]
    seeds: tuple[int, ...]
    runs: int
    rows: int
    quick: bool
    sitting: Sitting


def task(bench: Bench) -> None:
    """Every system trains the demo's recipe with every seed; what is measured already is not measured again."""
    for seed in bench.seeds:
        for system in bench.systems:
            case = f"{TASK}, seed {seed}"
            if bench.results.runs(case, system.name, system.setting, "json_exact") or not bench.sitting.takes():
                continue
            options = FEW if bench.quick else {}
            asked = replace(system, options={**system.options, **options})
            figures = bench.workshop.measure(asked, "run", "", seed=seed)
            if figures:
                _keep(bench.results, case, system, figures)
    _show_task(bench.results)


def _keep(results: Results, case: str, system: System, figures: Figures) -> None:
    for metric in figures:
        results.add(case, system.name, system.setting, metric, number(figures, metric))
    shown = ", ".join(f"{metric} {number(figures, metric):.4g}" for metric in sorted(figures))
    print(f"  {case}, {system.label}: {shown}", flush=True)
    results.write()


def _show_task(results: Results) -> None:
    def found(system: System, metric: str) -> list[float]:
        cases = (f"{TASK}, seed {seed}" for seed in SEEDS)
        return [value for case in cases for value in results.runs(case, system.name, system.setting, metric)]

    lines = []
    for system in SYSTEMS:
        original = sum(found(system, "chose_original"))
        kept = f"{original:.0f} of {len(found(system, 'json_exact'))}" if found(system, "chose_original") else "-"
        metrics = ("json_exact", "json_exact_original", "json_exact_dequantized")
        lines.append(
            (
                system.setting,
                *(spread(found(system, metric), 1) for metric in metrics),
                kept,
                spread(found(system, "weights_gb"), 3),
                spread(found(system, "train_rss_gb"), 2),
                spread(found(system, "tokens_per_s")),
            )
        )
    merges = ("merged: original", "dequantised", "original kept")
    heads = ("demo's task", "exact, %", *merges, "weights GB", "peak GB", "tokens/s")
    print("\n" + table(heads, lines) + "\n")
    plain = found(LORA, "json_exact")
    for system in SYSTEMS[1:]:
        points = found(system, "json_exact")
        if len(points) == len(plain) == len(SEEDS):
            behind = statistics.fmean(plain) - statistics.fmean(points)
            text = f"{system.setting}: points of json_exact below LoRA, means of {len(points)} seeds"
            verdict_within(text, behind, POINTS)
            fewer = ratios(found(LORA, "weights_gb"), found(system, "weights_gb"))
            verdict(f"{system.setting}: times fewer bytes of weights than LoRA", fewer, 1.0)
        else:
            print(f"not measured  {system.setting}: {len(points)} of {len(SEEDS)} seeds, LoRA {len(plain)}")


def speed(bench: Bench) -> None:
    """One epoch over the rows of `make bench-sft`, round-robin; rounds that are there are not taken again."""
    rows = make_rows(SHAPE, bench.workshop.task, warm_up=4, train=bench.rows)
    path = bench.workshop.keep(SHAPE, rows)
    for run in range(bench.runs):
        for system in bench.systems:
            known = bench.results.runs(SPEED, system.name, system.setting, "tokens_per_s")
            if len(known) > run or not bench.sitting.takes():
                continue
            asked = with_options(replace(OURS, setting=system.setting), **system.options)
            figures = bench.workshop.measure(asked, "train", path, seed=42 + run)
            if figures:
                _keep(bench.results, SPEED, system, figures)
    plain = bench.results.runs(SPEED, LORA.name, LORA.setting, "tokens_per_s")
    lines = []
    for system in SYSTEMS:
        runs, rss, weights = (
            bench.results.runs(SPEED, system.name, system.setting, metric)
            for metric in ("tokens_per_s", "rss_gb", "weights_gb")
        )
        lines.append((system.setting, spread(runs), spread(ratios(runs, plain), 3), spread(weights, 3), spread(rss, 2)))
    print("\n" + table((f"{SPEED}, {SHAPE}", "tokens/s", "of LoRA's", "weights GB", "peak GB"), lines))


CASES: dict[str, Callable[[Bench], None]] = {"speed": speed, "task": task}


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.qlora", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and steps, to see that everything works")
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--seed", action="append", type=int, choices=SEEDS, help="default: all")
    parser.add_argument("--only", action="append", metavar="TEXT", help="systems whose name holds TEXT")
    parser.add_argument("--runs", type=int, help="rounds of the case speed (default 5, quick 1)")
    parser.add_argument("--rows", type=int, help="timed rows of the case speed (default 16, quick 8)")
    parser.add_argument("--out", type=Path, help="where the figures go (default results/qlora.json)")
    add_minutes(parser)
    return parser.parse_args(given)


def main() -> None:
    """Measure what is asked for, print all that is known, write."""
    asked = _arguments()
    out = asked.out or (Path(tempfile.gettempdir()) / "qlora-quick.json" if asked.quick else RESULTS / "qlora.json")
    results = Results(out)
    results.keep_earlier()
    print(results.headline())
    systems = tuple(
        each for each in SYSTEMS if not asked.only or any(text.lower() in each.setting for text in asked.only)
    )
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as folder:
        bench = Bench(
            Workshop.open(Path(folder), results),
            results,
            systems,
            tuple(asked.seed or SEEDS[: 1 if asked.quick else None]),
            asked.runs or (1 if asked.quick else 5),
            asked.rows or (8 if asked.quick else 16),
            asked.quick,
            sitting := Sitting(asked.minutes),
        )
        print(f"threads {available_cores()}")
        for case in asked.case or CASES:
            print(f"\n=== {case}", flush=True)
            CASES[case](bench)
    results.write()
    sitting.tell()
    print(f"\nfigures: {out}")


if __name__ == "__main__":
    main()
