"""One measurement in a process of its own:  python -m benchmarks.child JOB.json FIGURES.json

The process is fresh, so that its peak of memory is its own and no system warms another's caches.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.exchange import Figures, read_job


def main(job_path: Path, figures_path: Path) -> None:
    """Settle the process as the job says, do the task, write what was measured."""
    job = read_job(job_path)
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS=str(job.threads))
    if job.hold_memory:
        from tunesmith.core.process import prepare

        prepare()
    task = getattr(import_module(f"benchmarks.peers.{job.file}"), job.task)
    figures: Figures = task(job)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures["rss_gb"] = peak * (1 if sys.platform == "darwin" else 1024) / 1e9
    figures_path.write_text(json.dumps(figures), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
