"""What a step of every adaptation costs beside LoRA:  make bench-adaptations  or  python -m benchmarks.adaptations

Each is trained in turns with plain LoRA of rank 16 in one process, step about step over the same rows of long prompts.
A step may take a tenth more, or as much more as its arithmetic does: both are printed. Figures that are there are not
taken again, so the same command goes on where it was broken off; `--again` takes one more round of them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.bench import Sitting, Workshop, add_minutes, number, numbers, verdict_within
from benchmarks.report import RESULTS, Results, spread, table
from benchmarks.shapes import make_rows
from benchmarks.systems import System
from tunesmith.core.process import available_cores

CASE = "long-prompt"
MOST = 1.10
"""Times LoRA's seconds, and times what its arithmetic asks for."""
LEAST_ROWS = 12
"""Three steps of four rows: one to warm up, two that are timed."""
_ADAPT, _STAGE = "stages.0.adapt", "stages.0"
_OLD = "[{path: handed-over-by-the-benchmark.jsonl}]"
SETTINGS: dict[str, dict[str, str]] = {
    "lora again": {},
    "rslora": {f"{_ADAPT}.use_rslora": "true"},
    "dora": {f"{_ADAPT}.use_dora": "true"},
    "pissa": {f"{_ADAPT}.init_lora_weights": "pissa"},
    "olora": {f"{_ADAPT}.init_lora_weights": "olora"},
    "lora, layer rates": {f"{_STAGE}.groups": "{layer_decay: 0.9}"},
    "lora, l2-sp": {f"{_STAGE}.penalties": "{l2_sp: 0.01}"},
    "lora, ewc": {f"{_STAGE}.penalties": f"{{ewc: {{weight: 100, rows: 4, sources: {_OLD}}}}}"},
    "norms alone": {_ADAPT: "{kind: subset, parts: [bias, norm]}"},
    "upper half": {_ADAPT: "{kind: subset, first_layer: 15}"},
    "full": {_ADAPT: "{kind: full}"},
    "bottleneck, pfeiffer": {_ADAPT: "{kind: bottleneck}"},
    "bottleneck, houlsby": {_ADAPT: "{kind: bottleneck, places: houlsby}"},
    "bottleneck, parallel": {_ADAPT: "{kind: bottleneck, places: parallel}"},
    "prompt": {_ADAPT: "{kind: prompt}"},
    "p-tuning": {_ADAPT: "{kind: p-tuning}"},
    "prefix": {_ADAPT: "{kind: prefix}"},
    "prefix, projected": {_ADAPT: "{kind: prefix, prefix_projection: true}"},
    "lora-experts": {_ADAPT: "{kind: lora-experts}"},
}


def measure(workshop: Workshop, rows: str, setting: str) -> None:
    """One process; its figures are kept, and told at once."""
    system = System("tunesmith", setting, "turns", hold_memory=True, options=SETTINGS[setting])
    figures = workshop.measure(system, "turns", rows)
    if figures is None:
        return
    for metric in ("step_seconds", "lora_step_seconds", "flops_ratio", "rss_gb"):
        workshop.results.add(CASE, "tunesmith", setting, metric, number(figures, metric))
    for ratio in numbers(figures, "ratios"):
        workshop.results.add(CASE, "tunesmith", setting, "times_lora", ratio)
    workshop.results.write()
    print(
        f"  {setting}: {1000 * number(figures, 'step_seconds'):.0f} ms a step, LoRA "
        f"{1000 * number(figures, 'lora_step_seconds'):.0f} ms",
        flush=True,
    )


def show(results: Results) -> None:
    """All that is known, and which setting stays within its limit."""

    def found(setting: str, metric: str) -> list[float]:
        return results.runs(CASE, "tunesmith", setting, metric)

    measured = [setting for setting in SETTINGS if found(setting, "times_lora")]
    lines = [
        (
            setting,
            spread([1000 * each for each in found(setting, "step_seconds")]),
            spread(found(setting, "times_lora"), 3),
            spread(found(setting, "flops_ratio"), 3),
        )
        for setting in measured
    ]
    print("\n" + table(("a step of 4 rows", "ms", "times LoRA's", "times its FLOPs"), lines) + "\n")
    for setting in measured:
        limit = MOST * max(1.0, statistics.median(found(setting, "flops_ratio")))
        verdict_within(f"{setting}: times LoRA's seconds", statistics.median(found(setting, "times_lora")), limit)


def main() -> None:
    """Measure what is asked for and not known yet, print all, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptations", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", action="append", metavar="TEXT", help="settings whose name holds TEXT")
    parser.add_argument("--rows", type=int, default=32, help="rows of the epoch, four a step (default 32)")
    parser.add_argument("--out", type=Path, default=RESULTS / "adaptations.json", help="where the figures go")
    parser.add_argument("--again", action="store_true", help="measure what is known already once more")
    add_minutes(parser)
    asked = parser.parse_args()
    if asked.rows < LEAST_ROWS:
        parser.error(f"the first step is the warm-up: at least {LEAST_ROWS} rows")
    results = Results(asked.out)
    results.keep_earlier()
    print(results.headline())
    print(f"threads {available_cores()}")
    sitting = Sitting(asked.minutes)
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as folder:
        workshop = Workshop.open(Path(folder), results)
        rows = workshop.keep(CASE, make_rows(CASE, workshop.task, warm_up=4, train=asked.rows))
        for setting in SETTINGS:
            if asked.only and not any(text in setting for text in asked.only):
                continue
            known = results.runs(CASE, "tunesmith", setting, "times_lora")
            if (asked.again or not known) and sitting.takes():
                measure(workshop, rows, setting)
    show(results)
    sitting.tell()
    results.write()
    print(f"\nfigures: {asked.out}")


if __name__ == "__main__":
    main()
