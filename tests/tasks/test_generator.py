"""A generator keeps every answer at once, and asks nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tunesmith.tasks.generator import KeptGenerator
from tunesmith.tasks.taught import Asked, Said


class Teacher:
    identity = "one"

    def __init__(self, stop_after: int = 99) -> None:
        self.asked: list[str] = []
        self._left = stop_after

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said | None]]:
        for place in reversed(range(len(asked))):
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            text = asked[place].messages[0].content
            self.asked.append(text)
            yield place, None if text == "refused" else Said(text.upper(), text != "cut")


def test_what_breaks_off_asks_only_what_is_missing(tmp_path: Path) -> None:
    prompts = ["a", "b", "a", "cut", "refused", "c"]
    first, second = Teacher(stop_after=3), Teacher()
    with pytest.raises(KeyboardInterrupt):
        KeptGenerator(lambda: first, tmp_path / "kept.jsonl").generate(prompts)
    told: list[tuple[int, int]] = []
    generator = KeptGenerator(lambda: second, tmp_path / "kept.jsonl", lambda done, total: told.append((done, total)))
    assert generator.generate(prompts) == ["A", "B", "A", None, None, "C"]
    assert first.asked == ["c", "refused", "cut"] and second.asked == ["refused", "b", "a"]
    assert told[-1][0] <= told[-1][1] == 6
    third = Teacher()
    assert KeptGenerator(lambda: third, tmp_path / "kept.jsonl").generate(["a", "b", "c"]) == ["A", "B", "C"]
    assert third.asked == []


def test_another_models_answer_is_another_answer(tmp_path: Path) -> None:
    one, other = Teacher(), Teacher()
    other.identity = "other"
    KeptGenerator(lambda: one, tmp_path / "kept.jsonl").generate(["a"])
    KeptGenerator(lambda: other, tmp_path / "kept.jsonl").generate(["a"])
    assert other.asked == ["a"]
