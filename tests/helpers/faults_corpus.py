"""The scenario of a corpus: texts repaired, filtered, masked and split a piece at a time, the same values in several
pieces; the next start is the same build again.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tunesmith.data.corpus.build import build_corpus
from tunesmith.data.corpus.executors import InThreads
from tunesmith.recipe.specs.data import DataSpec

CORPUS = "corpus"


class Corpus:
    """Forty texts in two pieces: a few twice, a few with personal data, with tags, or on a list of words."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._live = folder / "live"
        draw = random.Random(3)
        texts = [" ".join(f"word{draw.randrange(500)}" for _ in range(12)) for _ in range(36)]
        for place in range(0, 36, 6):
            texts[place] += f" mail person{place % 18}@example.org"
            texts[place + 1] = f"<p>{texts[place + 1]}</p>"
        texts[20] += " forbidden"
        lines = [json.dumps({"text": text}) + "\n" for text in [*texts, *texts[:4]]]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "texts.jsonl").write_text("".join(lines), "utf-8")
        (folder / "words.txt").write_text("forbidden\n", "utf-8")
        clean = {
            "near_duplicates": 0.7,
            "repair": {"rules": ["html"]},
            "filter": {"rules": ["too_short", "repetition"]},
            "pii": "mask",
            "content": {"word_lists": [{"path": "words.txt", "action": "drop"}]},
        }
        self._spec = DataSpec.model_validate({"rows": "text", "sources": [{"path": "texts.jsonl"}], "clean": clean})
        self._piece = sum(map(len, lines)) // 2 + 1

    def prepare(self) -> None:
        self._live.mkdir()

    def work(self) -> None:
        build_corpus(self._spec, self._folder, self._live / CORPUS, executor=InThreads(1), piece_bytes=self._piece)

    def recover(self) -> None:
        self.work()
