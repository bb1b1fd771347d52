"""Answers that break off: every sign by itself, habits of writers, and real texts with planted cuts."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tunesmith.data.truncation import is_truncated

BROKEN = [
    "It has a seating capacity of 143,000 and is the thirteent",
    "For this reason, the two gods withdrew th",
    "First open the lid, then take out the filter and",
    "Use it so:\n```python\nprint(1)",
    "1. Open the lid.\n2. Take out the filter.\n3. Rinse it",
    "Some of the best known are (among others in the same",
    "首先打开盖子，然后把",
    "结合新闻工作实践，我们可以更好地提",
    "他最后换成软卧（当然又补了差价",
    "房间很干净。服务也不错。只是隔音不好，晚上睡觉时总被吵",
]
WHOLE = [
    "Paris",
    "The Lord of the Rings",
    "Yes.",
    "It costs 5",
    "- milk\n- eggs\n- bread",
    "Name: the one that is in the list of all the names",
    "Use it so:\n```python\nprint(1)\n```",
    "She said (and I agree) that it is fine.",
    "好的",
    "房间很干净。 基于改进算法的优化研究",
    "1. 打开盖子\n2. 取出滤网",
    "😀",
]


def found(texts: list[str]) -> list[bool]:
    return pl.DataFrame({"text": texts}).select(is_truncated(pl.col("text")).alias("found"))["found"].to_list()


@pytest.mark.parametrize("text", BROKEN)
def test_what_breaks_off(text: str) -> None:
    assert found([text]) == [True]


@pytest.mark.parametrize("text", WHOLE)
def test_what_is_whole(text: str) -> None:
    assert found([text]) == [False]


def test_a_habit_of_many_writers_is_no_fault() -> None:
    """Thirty that leave the last mark out go free; as soon as they stop at odd places, all without an end go."""
    habit = [f"房间很干净。第{place}次来了，下次还会来" for place in range(30)]
    assert not any(found(habit))
    assert all(found(habit[:5]))  # too few to call it a habit
    cut = [f"房间很干净。第{place}次来，我们可以更好地提" for place in range(30)]
    assert all(found([*habit[:20], *cut]))
    assert found([*habit, cut[0]])[-1]


def test_real_texts_that_were_cut(shared_data: Path) -> None:
    """At least half of those cut anywhere, in under 3 of 100 of the others (before: 10 of 22, and 6 of 100)."""
    folder = shared_data / "dirty-text"
    rows, truth = (
        [json.loads(line) for line in (folder / name).read_text("utf-8").strip().split("\n")]
        for name in ("corpus.jsonl", "corpus_truth.jsonl")
    )
    judged = found([row["text"] for row in rows])
    said = list(zip(judged, truth, strict=True))
    cut = [hit for hit, stated in said if stated["op"] == "truncated"]
    clean = [hit for hit, stated in said if stated["op"] == "clean"]
    print(sum(cut), len(cut), sum(clean), len(clean))
    assert sum(cut) >= 0.5 * len(cut) and sum(clean) < 0.03 * len(clean)
