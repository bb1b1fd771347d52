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

from tunesmith.core.process import available_cores
from tunesmith.data.corpus.build import build_corpus
from tunesmith.data.corpus.in_processes import in_processes
from tunesmith.recipe.specs.data import DataSpec

CLEAN = {"repair": {"rules": ["mojibake"]}, "pii": "mask", "near_duplicates": 0.7}
"""Unicode and exact duplicates are done where nothing else is said; personal data of every type that there is."""


def main(corpus: Path, out: Path) -> None:
    """One build with everything that the comparison asks for."""
    spec = DataSpec.model_validate({"rows": "text", "sources": [{"path": str(corpus)}], "clean": CLEAN})
    began = time.perf_counter()
    with in_processes() as executor:
        report = build_corpus(spec, corpus, out, executor)
    seconds = time.perf_counter() - began
    own, largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    held = (own + available_cores() * largest) * 1024 / 1e9  # never less than what they held at one moment
    print(json.dumps({**asdict(report), "seconds": seconds, "rss_gb": held, "steps": report.seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
