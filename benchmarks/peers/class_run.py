"""A run of Tunesmith on rows with classes, up to its answers on the test rows. Prints its figures as JSON.

python -m benchmarks.peers.class_run RECIPE FOLDER [KEY=VALUE ...]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tunesmith.core.process import peak_memory_bytes, prepare

prepare()  # as the program does, before torch is imported

from tunesmith import lifecycle  # noqa: E402
from tunesmith.core.events import read_events  # noqa: E402


def main() -> None:
    """Data, plan and training are on the clock, as are tokenizing and training of the peers."""
    recipe, folder, *overrides = sys.argv[1:]
    work = lifecycle.start(Path(recipe), overrides, Path(folder), ())
    started = time.perf_counter()
    lifecycle.prepare_data(work)
    lifecycle.plan(work)
    lifecycle.train(work)
    seconds = time.perf_counter() - started
    rss = peak_memory_bytes() / 1e9
    lifecycle.measure_baseline(work)
    lifecycle.evaluate(work)
    results = {
        path.stem: json.loads(path.read_text("utf-8"))["metrics"] for path in (work.path / "evaluate").glob("*.json")
    }
    counts = next(each.values for each in read_events(work.path / "metrics.jsonl", "parameters"))
    (end,) = [each.values for each in read_events(work.path / "metrics.jsonl", "fit_end")]
    figures = {
        "run": str(work.path),
        "seconds": seconds,
        "fit_seconds": end["seconds"],
        "rss_gb": rss,
        "trained": counts["trainable"],
        "total": counts["total"],
        **{f"{name}_{metric}": 100 * value for name, found in results.items() for metric, value in found.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
