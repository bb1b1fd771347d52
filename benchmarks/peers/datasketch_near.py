"""Near duplicates of a file by datasketch:  python -m benchmarks.peers.datasketch_near FILE THRESHOLD

MinHash of 128 functions and its LSH as its pages show them, over the shingles that Tunesmith compares (three words, or
three Chinese characters), candidates judged by the shingles. Prints seconds and the rows that go, as JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

from datasketch import MinHash, MinHashLSH

_TOKEN = re.compile("[\u3400-\u9fff]|[^\\W_\u3400-\u9fff]+")


def shingles(text: str) -> set[bytes]:
    """Runs of three tokens."""
    tokens = _TOKEN.findall(text.lower())
    return {" ".join(tokens[place : place + 3]).encode() for place in range(len(tokens) - 2)}


def main(path: Path, threshold: float) -> None:
    """The longest row first: what is near to one that stays goes."""
    texts = [json.loads(line)["text"] for line in path.read_bytes().split(b"\n") if line]
    began = time.perf_counter()
    index = MinHashLSH(threshold=threshold, num_perm=128)
    sets = [shingles(text) for text in texts]
    gone = []
    for row in sorted(range(len(texts)), key=lambda row: -len(texts[row])):
        sketch = MinHash(num_perm=128)
        sketch.update_batch(list(sets[row]))
        near = (sets[other] for other in index.query(sketch))
        if any(len(sets[row] & other) >= threshold * len(sets[row] | other) for other in near):
            gone.append(row)
        else:
            index.insert(row, sketch)
    print(json.dumps({"seconds": time.perf_counter() - began, "gone": gone}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
