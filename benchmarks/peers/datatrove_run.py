"""The same pass with datatrove, in an environment of its own:  python datatrove_run.py CORPUS OUT THREADS

Read, mend encodings and Unicode, mask personal data (mails and internet addresses are all that it knows), drop exact
and near duplicates, split, write: its own blocks, with the barriers that its examples have. Prints seconds and the
number of rows that stay, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.exact_dedup import (
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

NEAR = MinhashConfig(n_grams=3, num_buckets=32, hashes_per_bucket=4)
"""As many hash functions, and bands of the same form, as Tunesmith has at 0.7."""


def content(document: object) -> str:
    """What exact duplicates are compared by."""
    return str(document.text)  # type: ignore[attr-defined]


def placed(data: object, rank: int = 0, world_size: int = 1) -> object:
    """Rows with the split that their text draws."""
    for document in data:  # type: ignore[attr-defined]
        drawn = int.from_bytes(hashlib.sha256(document.text.encode()).digest()[:4], "big") / 2**32
        document.metadata["split"] = "train" if drawn < 0.7 else "validation" if drawn < 0.85 else "test"
        yield document


def main(corpus: Path, out: Path, threads: int) -> None:
    """Every stage after the other; each is a barrier, as it must be."""
    files = len(list(corpus.glob("*.jsonl")))
    exact = ExactDedupConfig(content_getter=content)
    stages: list[tuple[list[object], int]] = [
        (
            [
                JsonlReader(str(corpus), glob_pattern="*.jsonl"),
                FTFYFormatter(),
                PIIFormatter(),
                JsonlWriter(str(out / "clean"), output_filename="${rank}.jsonl", compression=None),
            ],
            files,
        ),
        (
            [
                JsonlReader(str(out / "clean")),
                ExactDedupSignature(str(out / "exact"), exact),
            ],
            files,
        ),
        ([ExactFindDedups(str(out / "exact"), str(out / "copies"), exact)], 1),
        (
            [
                JsonlReader(str(out / "clean")),
                ExactDedupFilter(str(out / "copies"), exact),
                JsonlWriter(str(out / "single"), output_filename="${rank}.jsonl", compression=None),
            ],
            files,
        ),
        ([JsonlReader(str(out / "single")), MinhashDedupSignature(str(out / "signatures"), NEAR)], files),
        ([MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=NEAR)], NEAR.num_buckets),
        ([MinhashDedupCluster(str(out / "buckets"), str(out / "remove"), config=NEAR)], 1),
        (
            [
                JsonlReader(str(out / "single")),
                MinhashDedupFilter(str(out / "remove")),
                placed,
                JsonlWriter(str(out / "shards"), output_filename="${split}-${rank}.jsonl", compression=None),
            ],
            files,
        ),
    ]
    began = time.perf_counter()
    for place, (blocks, tasks) in enumerate(stages):
        LocalPipelineExecutor(blocks, tasks=tasks, workers=threads, logging_dir=str(out / f"log-{place}")).run()
    seconds = time.perf_counter() - began
    kept = sum(len(path.read_bytes().split(b"\n")) - 1 for path in (out / "shards").glob("*.jsonl"))
    print(json.dumps({"seconds": seconds, "kept": kept}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
