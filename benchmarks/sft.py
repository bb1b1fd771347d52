"""Supervised fine-tuning against other trainers:  make bench-sft  or  python -m benchmarks.sft [--quick]

Every system gets the same token ids and the same learned positions, in a process of its own, one after the other,
round and round. See README.md for what is on the clock and how the peers are set.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Workshop, number, numbers, ratios, verdict, verdict_within, with_options
from benchmarks.exchange import Figures, answer_share
from benchmarks.report import RESULTS, Results, spread, table
from benchmarks.shapes import LONG_ROWS, SHAPES, make_rows, why_absent
from benchmarks.systems import (
    FASTER_THAN,
    HAND,
    HAND_ALLOCATOR,
    HAND_FLOAT32,
    LLAMA_FACTORY,
    OURS,
    OURS_PLAIN,
    PLAIN_SWITCH,
    SMALLER_THAN,
    SYSTEMS,
    System,
    version_in,
)
from tunesmith.recipe.specs.train import TrainSpec

METRICS = ("tokens_per_s", "rss_gb", "seconds", "train_loss")
FINAL = (OURS, HAND_FLOAT32, HAND_ALLOCATOR)
"""Whose held-out losses are compared: the first two train the same numbers."""
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2}
"""Largest difference of a row's loss before the first step, by number format."""
MOST_SECONDS_OF_HELP = 0.5
USEFUL = 0.40
"""Useful utilisation that is aimed at."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    runs: int
    rows: int
    seeds: tuple[int, ...]
    seed_rows: int
    seed_epochs: int
    held_out: int
    warm_up: int = 4


FULL = Sizes(runs=5, rows=16, seeds=(1, 2, 3), seed_rows=64, seed_epochs=2, held_out=24)
QUICK = Sizes(runs=1, rows=8, seeds=(1,), seed_rows=16, seed_epochs=1, held_out=4)


@dataclass(frozen=True)
class Bench:
    """One call of this benchmark."""

    workshop: Workshop
    results: Results
    sizes: Sizes
    shapes: tuple[str, ...]
    systems: tuple[System, ...]


# --------------------------------------------------------------------------------------------------- speed


def speed(bench: Bench) -> None:
    """Every system trains one epoch of every shape, `runs` times, round-robin."""
    peak = bench.workshop.measure(OURS, "peak", "")
    if peak:
        bench.results.add("peak", "tunesmith", "bfloat16", "flops_per_s", number(peak, "flops_per_s"))
        print(f"best matrix product in bfloat16: {number(peak, 'flops_per_s') / 1e9:.0f} GFLOP/s, the best of")
        print("  (rows, in, out) GFLOP/s: " + ", ".join(_products(peak)))
    for shape in bench.shapes:
        rows = make_rows(shape, bench.workshop.task, warm_up=bench.sizes.warm_up, train=bench.sizes.rows)
        lengths = sorted(len(row.token_ids) for row in rows.train)
        print(
            f"\n{shape}: {len(lengths)} rows of {lengths[0]} to {lengths[-1]} tokens, "
            f"{statistics.fmean(lengths):.0f} on average, {answer_share(rows.train):.0%} learned; "
            f"{rows.train_tokens} real tokens",
            flush=True,
        )
        path = bench.workshop.keep(shape, rows)
        for run in range(bench.sizes.runs):
            for system in bench.systems:
                figures = bench.workshop.measure(system, "train", path, seed=42 + run)
                if figures:
                    _keep_speed(bench.results, f"sft {shape}", system, figures)
                    _keep_use(bench.results, f"sft {shape}", system, figures, peak)
            bench.results.write()
        _show_speed(bench, f"sft {shape}")


def _products(peak: Figures) -> list[str]:
    columns = [numbers(peak, name) for name in ("rows", "inputs", "outputs", "speeds")]
    return [f"({rows:.0f}, {ins:.0f}, {outs:.0f}) {value / 1e9:.0f}" for rows, ins, outs, value in zip(*columns)]  # noqa: B905


def _keep_speed(results: Results, case: str, system: System, figures: Figures) -> None:
    for metric in METRICS:
        results.add(case, system.name, system.setting, metric, number(figures, metric))
    print(
        f"  {system.label:<48}{number(figures, 'tokens_per_s'):8.0f} tokens/s{number(figures, 'rss_gb'):8.2f} GB"
        f"{number(figures, 'seconds'):8.1f} s   loss {number(figures, 'train_loss'):.3f}",
        flush=True,
    )


def _keep_use(results: Results, case: str, system: System, figures: Figures, peak: Figures | None) -> None:
    """U, E and W of a run that counted its FLOPs."""
    if peak is None or "needed_flops" not in figures:
        return
    at_peak = number(figures, "seconds") * number(peak, "flops_per_s")
    needed, executed = number(figures, "needed_flops"), number(figures, "executed_flops")
    found = {"U": needed / at_peak, "E": executed / at_peak, "W": executed / needed}
    for name, value in found.items():
        results.add(case, system.name, system.setting, name, value)


def _show_speed(bench: Bench, case: str) -> None:
    results = bench.results
    ours = {metric: results.runs(case, OURS.name, OURS.setting, metric) for metric in METRICS}
    lines = []
    for system in bench.systems:
        found = {metric: results.runs(case, system.name, system.setting, metric) for metric in METRICS}
        if not found["tokens_per_s"]:
            continue
        faster = ratios(ours["tokens_per_s"], found["tokens_per_s"])
        smaller = ratios(found["rss_gb"], ours["rss_gb"])
        if system != OURS:
            for values, metric in ((faster, "times_faster"), (smaller, "times_smaller")):
                for value in values:
                    results.add(case, "tunesmith", f"against {system.label}", metric, value)
        cells = (spread(found["tokens_per_s"]), spread(faster, 2), spread(found["rss_gb"], 2), spread(smaller, 2))
        lines.append((system.label, *cells, spread(found["train_loss"], 3)))
    print("\n" + table((case, "real tokens/s", "ours is x faster", "peak GB", "ours is x smaller", "loss"), lines))
    results.write()
    _judge_speed(bench, case)


def _judge_speed(bench: Bench, case: str) -> None:
    def against(system: System, metric: str) -> list[float]:
        return bench.results.runs(case, "tunesmith", f"against {system.label}", metric)

    print()
    for system, wanted in FASTER_THAN:
        verdict(f"{case}: at least {wanted} x the speed of {system.label}", against(system, "times_faster"), wanted)
    for system in bench.systems:
        if system not in (OURS, OURS_PLAIN):
            wanted = 1.0 if system.checkpointing else SMALLER_THAN
            text = f"{case}: peak memory of {system.label} at least {wanted:.0f} x ours"
            verdict(text, against(system, "times_smaller"), wanted)
    found = {name: bench.results.runs(case, OURS.name, OURS.setting, name) for name in "UEW"}
    if found["U"]:
        print("              " + ", ".join(f"{name} {spread(values, 3)}" for name, values in found.items()))
    verdict(f"{case}: useful utilisation U of at least {USEFUL:.2f}", found["U"], USEFUL)


# ------------------------------------------------------------------------------------------------ same losses


def first_losses(bench: Bench) -> None:
    """The loss of each row before the first step: the product's batches against plain transformers, row by row."""
    for shape in bench.shapes:
        rows = make_rows(shape, bench.workshop.task, warm_up=bench.sizes.warm_up, train=bench.sizes.rows)
        path = bench.workshop.keep(f"{shape}-first", rows)
        exact: list[float] = []
        for dtype, limit in LIMITS.items():
            ours, plain = (
                numbers(bench.workshop.measure(with_options(each, model__dtype=dtype), "first_losses", path), "losses")
                for each in (OURS, HAND)
            )
            if not ours or not plain:
                continue
            exact = exact or plain
            largest = _furthest(ours, plain)
            bench.results.add(f"first losses {shape}", "tunesmith", dtype, "largest_difference", largest)
            text = f"{shape}: {len(ours)} losses before the first step equal plain transformers' in {dtype}"
            verdict_within(text, largest, limit)
            if dtype != "float32":
                away = f"ours {_furthest(ours, exact):.3g}, plain transformers' {_furthest(plain, exact):.3g}"
                print(f"              largest distance from float32: {away}")
    bench.results.write()


def _furthest(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(left - right) for left, right in zip(one, other, strict=True))


def final_losses(bench: Bench) -> None:
    """Loss of held-out rows after a longer training, over seeds: the product against loops written by hand."""
    sizes = bench.sizes
    for shape in bench.shapes:
        rows = make_rows(
            shape, bench.workshop.task, warm_up=sizes.warm_up, train=sizes.seed_rows, held_out=sizes.held_out
        )
        path = bench.workshop.keep(f"{shape}-seeds", rows)
        case = f"final losses {shape}"
        for seed in sizes.seeds:
            for system in FINAL:
                figures = bench.workshop.measure(system, "train", path, seed=seed, epochs=sizes.seed_epochs)
                if figures:
                    loss = statistics.fmean(numbers(figures, "held_out_losses"))
                    bench.results.add(case, system.name, system.setting, "held_out_loss", loss)
        bench.results.write()
        print(f"\n{shape}: {sizes.seed_rows} rows, {sizes.seed_epochs} epochs, {sizes.held_out} held-out rows")
        ours, hand, rounded = (bench.results.runs(case, each.name, each.setting, "held_out_loss") for each in FINAL)
        if ours and hand and rounded:
            noise = max(max(ours) - min(ours), max(hand) - min(hand), 0.01)
            away = abs(statistics.fmean(ours) - statistics.fmean(hand))
            print(f"  held-out loss, ours {spread(ours, 4)}, hand loop {spread(hand, 4)}")
            print(f"  with adapters and optimizer in bfloat16 by hand: {spread(rounded, 4)}")
            verdict_within(f"{shape}: means of {len(ours)} seeds apart by less than the seeds are", away, noise)


# --------------------------------------------------------------------------------------------------- start-up


def start_up(bench: Bench) -> None:
    """Seconds from `tunesmith --help` to its end."""
    command = [str(Path(sys.executable).with_name("tunesmith")), "--help"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    for _ in range(max(3, bench.sizes.runs)):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        bench.results.add("start-up", "tunesmith", "--help", "seconds", time.perf_counter() - started)
    seconds = bench.results.runs("start-up", "tunesmith", "--help", "seconds")
    verdict_within("seconds of tunesmith --help", statistics.median(seconds), MOST_SECONDS_OF_HELP)
    bench.results.write()


# ------------------------------------------------------------------------------------------------------ parts

CASES: dict[str, Callable[[Bench], None]] = {
    "start-up": start_up,
    "first-losses": first_losses,
    "speed": speed,
    "final-losses": final_losses,
}


SHAPE_HELP = f"default: {' and '.join(SHAPES)}; quick: {SHAPES[0]}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sft", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of few rows, to see that everything works")
    parser.add_argument("--runs", type=int, help="rounds over all systems (default 5, quick 1)")
    parser.add_argument("--rows", type=int, help="timed rows (default 16, quick 8)")
    parser.add_argument("--shape", action="append", choices=[*SHAPES, LONG_ROWS], help=SHAPE_HELP)
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--only", action="append", metavar="TEXT", help="systems whose name holds TEXT; ours always")
    parser.add_argument("--out", type=Path, default=RESULTS / "sft.json", help="where the figures go")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    asked = _arguments()
    size = QUICK if asked.quick else FULL
    sizes = Sizes(**{**vars(size), "runs": asked.runs or size.runs, "rows": asked.rows or size.rows})
    results = Results(asked.out)
    systems = _systems(results, asked.only)
    print(results.headline())
    shapes = []
    for shape in asked.shape or (SHAPES[:1] if asked.quick else SHAPES):
        reason = why_absent(shape)
        if reason:
            results.note(f"{shape} is left out: {reason}")
        else:
            shapes.append(shape)
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as folder:
        bench = Bench(Workshop.open(Path(folder), results), results, sizes, tuple(shapes), systems)
        for case in asked.case or CASES:
            print(f"\n=== {case}", flush=True)
            CASES[case](bench)
    results.write()
    print(f"\nfigures: {asked.out}")


def _systems(results: Results, only: Sequence[str] | None) -> tuple[System, ...]:
    """Ours, and those of the others that are wanted and can be run here."""
    chosen = []
    for system in SYSTEMS:
        if system != OURS and only and not any(text.lower() in system.label.lower() for text in only):
            continue
        if system == OURS_PLAIN and PLAIN_SWITCH not in TrainSpec.model_fields:
            continue
        if system == LLAMA_FACTORY:
            number_found = version_in(system.python, "llamafactory")
            if not number_found:
                results.note("llama-factory is left out: $TUNESMITH_BENCH_LLAMAFACTORY names no Python that has it")
                continue
            results.version("llamafactory", number_found)
        chosen.append(system)
    return tuple(chosen)


if __name__ == "__main__":
    main()
