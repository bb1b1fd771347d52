"""Supervised fine-tuning against other trainers:  make bench-sft  or  python -m benchmarks.sft [--quick]

Every system gets the same token ids and the same learned positions, in a process of its own, one after the other,
round and round. See README.md for what is on the clock and how the peers are set.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import ChildFailed, Workshop, with_options, workshop_folder
from benchmarks.exchange import Figures, answer_share, count_tokens
from benchmarks.report import RESULTS, Results, spread, table
from benchmarks.shapes import SHAPES, make_rows, why_absent
from benchmarks.systems import FASTER_THAN, HAND, HAND_ALLOCATOR, OURS, SMALLER_THAN, SYSTEMS, System

METRICS = ("tokens_per_s", "rss_gb", "seconds", "train_loss")
SEEDS = (1, 2, 3)
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2}
"""Largest difference of a row's loss before the first step, by number format."""


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


FULL = Sizes(runs=5, rows=16, seeds=SEEDS, seed_rows=64, seed_epochs=2, held_out=24)
QUICK = Sizes(runs=1, rows=8, seeds=SEEDS[:1], seed_rows=16, seed_epochs=1, held_out=4)


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
    for shape in bench.shapes:
        rows = make_rows(shape, bench.workshop.task, warm_up=bench.sizes.warm_up, train=bench.sizes.rows)
        lengths = sorted(len(row.token_ids) for row in rows.train)
        print(
            f"\n{shape}: {len(lengths)} rows of {lengths[0]} to {lengths[-1]} tokens, "
            f"{statistics.fmean(lengths):.0f} on average, {answer_share(rows.train):.0%} learned; "
            f"{count_tokens(rows.train)} real tokens",
            flush=True,
        )
        path = bench.workshop.keep(shape, rows)
        for run in range(bench.sizes.runs):
            for system in bench.systems:
                figures = _measured(bench, system, "train", path, seed=42 + run)
                _keep_speed(bench.results, shape, system, figures)
            bench.results.write()
        _show_speed(bench, shape)


def _keep_speed(results: Results, shape: str, system: System, figures: Figures | None) -> None:
    if figures is None:
        return
    for metric in METRICS:
        results.add(f"sft {shape}", system.name, system.setting, metric, _number(figures, metric))
    print(
        f"  {system.label:<48}{_number(figures, 'tokens_per_s'):8.0f} tokens/s{_number(figures, 'rss_gb'):8.2f} GB"
        f"{_number(figures, 'seconds'):8.1f} s   loss {_number(figures, 'train_loss'):.3f}",
        flush=True,
    )


def _show_speed(bench: Bench, shape: str) -> None:
    case, results = f"sft {shape}", bench.results
    ours = {metric: results.runs(case, OURS.name, OURS.setting, metric) for metric in METRICS}
    lines = []
    for system in bench.systems:
        found = {metric: results.runs(case, system.name, system.setting, metric) for metric in METRICS}
        if not found["tokens_per_s"]:
            continue
        faster = _ratios(ours["tokens_per_s"], found["tokens_per_s"])
        smaller = _ratios(found["rss_gb"], ours["rss_gb"])
        if system != OURS:
            for ratios, metric in ((faster, "times_faster"), (smaller, "times_smaller")):
                for value in ratios:
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
        _verdict(f"{case}: at least {wanted} x the speed of {system.label}", against(system, "times_faster"), wanted)
    for system in bench.systems:
        if system != OURS:
            wanted = 1.0 if system.checkpointing else SMALLER_THAN
            name = f"{case}: peak memory at most 1/{wanted:.0f} of {system.label}"
            _verdict(name, against(system, "times_smaller"), wanted)


# ------------------------------------------------------------------------------------------------ same losses


def first_losses(bench: Bench) -> None:
    """The loss of each row before the first step: the product's batches against plain transformers, row by row."""
    for shape in bench.shapes:
        rows = make_rows(shape, bench.workshop.task, warm_up=bench.sizes.warm_up, train=bench.sizes.rows)
        path = bench.workshop.keep(f"{shape}-first", rows)
        for dtype, limit in LIMITS.items():
            pair = [
                _measured(bench, with_options(system, model__dtype=dtype), "first_losses", path)
                for system in (OURS, HAND)
            ]
            ours, plain = (each["losses"] if each else [] for each in pair)
            if not isinstance(ours, list) or not isinstance(plain, list) or not ours or not plain:
                continue
            largest = max(abs(one - other) for one, other in zip(ours, plain, strict=True))
            bench.results.add(f"first losses {shape}", "tunesmith", dtype, "largest_difference", largest)
            name = f"{shape}: losses of {len(ours)} rows before the first step equal plain transformers' in {dtype}"
            _verdict(f"{name} within {limit:g} (largest difference {largest:.3g})", [limit - largest], 0.0)
    bench.results.write()


def final_losses(bench: Bench) -> None:
    """Loss of held-out rows after a longer training, over seeds: the product against the hand-written loop."""
    sizes = bench.sizes
    for shape in bench.shapes:
        rows = make_rows(
            shape, bench.workshop.task, warm_up=sizes.warm_up, train=sizes.seed_rows, held_out=sizes.held_out
        )
        path = bench.workshop.keep(f"{shape}-seeds", rows)
        ours, hand = list[float](), list[float]()
        for seed in sizes.seeds:
            for system, values in ((OURS, ours), (HAND_ALLOCATOR, hand)):
                figures = _measured(bench, system, "train", path, seed=seed, epochs=sizes.seed_epochs)
                losses = figures["held_out_losses"] if figures else []
                if isinstance(losses, list) and losses:
                    values.append(statistics.fmean(losses))
                    bench.results.add(f"final losses {shape}", system.name, system.setting, "held_out_loss", values[-1])
        bench.results.write()
        if ours and hand:
            noise = max(max(ours) - min(ours), max(hand) - min(hand), 0.01)
            away = abs(statistics.fmean(ours) - statistics.fmean(hand))
            print(f"\n{shape}: {sizes.seed_rows} rows, {sizes.seed_epochs} epochs, {sizes.held_out} held-out rows")
            print(f"  held-out loss, ours {spread(ours, 4)}, hand loop {spread(hand, 4)}")
            _verdict(f"{shape}: means apart by {away:.4f}, within the spread of {noise:.4f}", [noise - away], 0.0)


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
    _verdict(f"tunesmith --help under 0.5 s (took {spread(seconds, 2)})", [0.5 - statistics.median(seconds)], 0.0)
    bench.results.write()


# ------------------------------------------------------------------------------------------------------ parts

CASES: dict[str, Callable[[Bench], None]] = {
    "start-up": start_up,
    "first-losses": first_losses,
    "speed": speed,
    "final-losses": final_losses,
}


def _measured(bench: Bench, system: System, task: str, rows: str, *, seed: int = 42, epochs: int = 1) -> Figures | None:
    """Figures of a child; None, with a note, when it failed: the others go on."""
    try:
        return bench.workshop.run(system, task, rows, seed=seed, epochs=epochs)
    except ChildFailed as error:
        bench.results.note(f"{system.label} failed at {task}: {error}")
        return None


def _number(figures: Figures, metric: str) -> float:
    value = figures[metric]
    if isinstance(value, list):
        raise TypeError(metric)
    return value


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Run by run; where a run of one is missing, of the medians."""
    if len(above) == len(below):
        return [one / other for one, other in zip(above, below, strict=True)]
    return [statistics.median(above) / statistics.median(below)] if above and below else []


def _verdict(text: str, values: Sequence[float], wanted: float) -> None:
    if not values:
        print(f"not measured  {text}")
        return
    median = statistics.median(values)
    shown = f": {median:.2f}" if wanted else ""
    print(f"{'reached     ' if median >= wanted else 'NOT REACHED '}  {text}{shown}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sft", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of few rows, to see that everything works")
    parser.add_argument("--runs", type=int, help="rounds over all systems (default 5, quick 1)")
    parser.add_argument("--rows", type=int, help="timed rows (default 16, quick 8)")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="default: all, quick: the first")
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
    print(results.headline())
    shapes = []
    for shape in asked.shape or (SHAPES[:1] if asked.quick else SHAPES):
        reason = why_absent(shape)
        if reason:
            results.note(f"{shape} is left out: {reason}")
        else:
            shapes.append(shape)
    systems = [each for each in SYSTEMS if each == OURS or _chosen(each, asked.only)]
    with workshop_folder() as folder:
        bench = Bench(Workshop(Path(folder)), results, sizes, tuple(shapes), tuple(systems))
        for case in asked.case or CASES:
            print(f"\n=== {case}", flush=True)
            CASES[case](bench)
    results.write()
    print(f"\nfigures: {asked.out}")


def _chosen(system: System, only: Sequence[str] | None) -> bool:
    return not only or any(text.lower() in system.label.lower() for text in only)


if __name__ == "__main__":
    main()
