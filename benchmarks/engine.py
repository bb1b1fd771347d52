"""The engine beside plain training:  make bench-engine  or  python -m benchmarks.engine [--quick]

shared       rows that begin with the same passage, sharing it or not
perplexity   the loss of held-out rows against a transformers loop
generation   32 prompts and 64 new tokens each against `generate`
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench import Workshop, number, numbers, ratios, verdict
from benchmarks.exchange import Row, Rows
from benchmarks.report import RESULTS, Results, spread, table
from benchmarks.shapes import QUESTIONS, make_prompts, make_rows, why_absent
from benchmarks.systems import System

NEW_TOKENS = 64
_EIGHT = {"stages.0.train.batch_size": "8"}
"""The product's default."""

SHARING = System("tunesmith", "shared beginnings", "engine_ours", hold_memory=True, options=_EIGHT)
APART = replace(SHARING, setting="rows apart", options={**_EIGHT, "pack": "apart"})
PASS = System("tunesmith", "validation", "engine_ours", hold_memory=True, options=_EIGHT)
ROW_BY_ROW = System("transformers", "row by row", "engine_plain", options={"batch": "1"})
IN_BATCHES = System("transformers", "sorted batches of 8", "engine_plain", options={"batch": "8"})
IN_BATCHES_HELD = replace(IN_BATCHES, setting="sorted batches of 8, allocator", hold_memory=True)
ANSWERS = System("tunesmith", "generate", "engine_ours", hold_memory=True, options={"new_tokens": str(NEW_TOKENS)})
PLAIN_ANSWERS = System("transformers", "generate", "engine_plain", options=ANSWERS.options)
PLAIN_ANSWERS_HELD = replace(PLAIN_ANSWERS, setting="generate, allocator", hold_memory=True)


@dataclass(frozen=True)
class Bench:
    """One call of this benchmark."""

    workshop: Workshop
    results: Results
    runs: int
    rows: int


def shared(bench: Bench) -> None:
    """Several questions a passage: the same rows in the same order, with and without their common beginning."""
    reason = why_absent(QUESTIONS)
    if reason:
        bench.results.note(f"{QUESTIONS} is left out: {reason}")
        return
    rows = make_rows(QUESTIONS, bench.workshop.task, warm_up=8, train=2 * bench.rows)
    _compare(bench, "shared passages", "shared", rows, [SHARING, APART], 2.0)


def perplexity(bench: Bench) -> None:
    """Loss of the answers, and of every token, over held-out rows."""
    rows = make_rows("long-prompt", bench.workshop.task, warm_up=4, train=bench.rows)
    systems = [PASS, ROW_BY_ROW, IN_BATCHES, IN_BATCHES_HELD]
    _compare(bench, "perplexity of answers", "perplexity", rows, systems, 3.0)
    _compare(bench, "perplexity of all tokens", "perplexity", _all_learned(rows), systems, 3.0)


def _all_learned(rows: Rows) -> Rows:
    def learned(part: Sequence[Row]) -> tuple[Row, ...]:
        return tuple(Row(row.token_ids, (0,) + (1,) * (len(row.token_ids) - 1)) for row in part)

    return Rows(learned(rows.warm_up), learned(rows.train))


def generation(bench: Bench) -> None:
    """Greedy answers, none ends early, so that everybody makes as many tokens."""
    rows = make_prompts(bench.workshop.task, bench.rows)
    _compare(bench, "generation", "generate", rows, [ANSWERS, PLAIN_ANSWERS, PLAIN_ANSWERS_HELD], 2.0)


def _compare(bench: Bench, case: str, task: str, rows: Rows, systems: Sequence[System], wanted: float) -> None:
    """Round-robin over the systems, the first of which is ours; a table, and whether each is beaten as wanted."""
    path = bench.workshop.keep(case.replace(" ", "-"), rows)
    answers: dict[str, list[float]] = {}
    print(f"\n{case}: {len(rows.train)} rows, {rows.train_tokens} tokens", flush=True)
    for run in range(bench.runs):
        for system in systems:
            figures = bench.workshop.measure(system, task, path, seed=42 + run)
            if figures is None:
                continue
            answers[system.label] = numbers(figures, "token_ids") if "token_ids" in figures else []
            single = {metric for metric, value in figures.items() if not isinstance(value, list)}
            for metric in sorted(single):
                bench.results.add(case, system.name, system.setting, metric, number(figures, metric))
            shown = ", ".join(f"{metric} {number(figures, metric):.4g}" for metric in sorted(single))
            print(f"  {system.label:<48}{shown}", flush=True)
        bench.results.write()
    _show(bench, case, systems, wanted)
    for system in systems[1:]:
        ours, theirs = answers.get(systems[0].label), answers.get(system.label)
        if ours and theirs:
            equal = statistics.fmean(one == other for one, other in zip(ours, theirs, strict=True))
            print(f"              {equal:.0%} of the tokens are those of {system.label}")
    bench.results.write()


def _show(bench: Bench, case: str, systems: Sequence[System], wanted: float) -> None:
    lines, verdicts = [], []
    ours = bench.results.runs(case, systems[0].name, systems[0].setting, "tokens_per_s")
    for system in systems:
        found = bench.results.runs(case, system.name, system.setting, "tokens_per_s")
        faster = ratios(ours, found)
        rss = bench.results.runs(case, system.name, system.setting, "rss_gb")
        lines.append((system.label, spread(found), spread(faster, 2), spread(rss, 2)))
        if system != systems[0]:
            verdicts.append((system, faster))
            for value in faster:
                bench.results.add(case, systems[0].name, f"against {system.label}", "times_faster", value)
    print("\n" + table((case, "tokens/s", "ours is x faster", "peak GB"), lines) + "\n")
    for system, faster in verdicts:
        verdict(f"{case}: at least {wanted} x the speed of {system.label}", faster, wanted)


CASES: dict[str, Callable[[Bench], None]] = {"shared": shared, "perplexity": perplexity, "generation": generation}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of few rows, to see that everything works")
    parser.add_argument("--runs", type=int, help="rounds over all systems (default 5, quick 1)")
    parser.add_argument("--rows", type=int, help="rows or prompts (default 32, quick 8)")
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "engine.json", help="where the figures go")
    asked = parser.parse_args()
    results = Results(asked.out)
    print(results.headline())
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as folder:
        workshop = Workshop.open(Path(folder), results)
        bench = Bench(
            workshop, results, asked.runs or (1 if asked.quick else 5), asked.rows or (8 if asked.quick else 32)
        )
        for case in asked.case or CASES:
            CASES[case](bench)
    results.write()
    print(f"\nfigures: {asked.out}")


if __name__ == "__main__":
    main()
