"""The pass over a corpus as a user starts it:  python -m benchmarks.peers.corpus_ours CORPUS OUT

Prints seconds, those of each step, the most memory held (pages of mapped files included) and what became of the rows.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path

from tunesmith.data.corpus.build import build_corpus
from tunesmith.recipe.specs.data import DataSpec

CLEAN = {"repair": {"rules": ["mojibake"]}, "pii": "mask", "near_duplicates": 0.7}
"""Unicode and exact duplicates are done where nothing else is said; personal data of every type that there is."""


def main(corpus: Path, out: Path) -> None:
    """One build with everything that the comparison asks for."""
    spec = DataSpec.model_validate({"rows": "text", "sources": [{"path": str(corpus)}], "clean": CLEAN})
    began = time.perf_counter()
    report = build_corpus(spec, corpus, out)
    seconds = time.perf_counter() - began
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({**asdict(report), "seconds": seconds, "rss_gb": held, "steps": report.seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
