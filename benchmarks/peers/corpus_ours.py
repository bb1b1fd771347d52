"""The pass over a corpus as a user starts it:  python -m benchmarks.peers.corpus_ours CORPUS OUT

Prints seconds, those of each step, the most memory held (pages of mapped files included) and what became of the rows.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from tunesmith.data.corpus.build import build_corpus
from tunesmith.recipe.specs.data import DataSpec


def main(corpus: Path, out: Path) -> None:
    """One build with everything that the comparison asks for."""
    spec = DataSpec.model_validate(
        {"rows": "text", "sources": [{"path": str(corpus)}], "clean": {"near_duplicates": 0.7, **PERSONAL_DATA}}
    )
    began = time.perf_counter()
    report = build_corpus(spec, corpus, out)
    seconds = time.perf_counter() - began
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    facts = {"seconds": seconds, "rss_gb": held, "bytes": report.bytes, "fates": report.fates, "splits": report.splits}
    print(json.dumps({**facts, "steps": report.seconds}))


PERSONAL_DATA: dict[str, object] = {}

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
