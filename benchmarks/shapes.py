"""The rows of the benchmark: two shapes, encoded once by the product's own chat task.

`long-prompt`  made here: long prompts and short answers, about 330 tokens a row of which 30 % carry loss. Rows have
               nothing in common but the first tokens of the template, so nobody gains by sharing beginnings.
`instruct-en`  English instructions of the shared data, when they are there. Single turns without a system prompt:
               the model's template puts its default one before each.
`long-rows`    as long-prompt, but of 800 to 1,024 tokens: what the longest batch of a real file takes in memory.
`qa-xquad`     English questions of the shared data, about five a passage: rows that begin with the same document.
"""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path

from benchmarks.exchange import Row, Rows
from tunesmith.core.types import Example, Message, Origin
from tunesmith.tasks.chat import ChatTask

SHAPES = ("long-prompt", "instruct-en")
LONG_ROWS = "long-rows"
QUESTIONS = "qa-xquad"
_FILES = {"instruct-en": "instruct-en/train.json", QUESTIONS: "qa-xquad/train.jsonl"}
_BATCH = 4
_PART = 8
"""The timed rows are chosen out of so many times more."""
_PLACES = (
    "Norwell",
    "Castrel",
    "Ambry",
    "Tolsand",
    "Quenby",
    "Ostrava Pier",
    "Hallow Reach",
    "Lindmoor",
    "Sable Point",
)
_THINGS = ("pump", "crane", "turbine", "conveyor", "compressor", "signal mast", "valve train", "cold store", "winch")
_STATES = ("ran hot", "stopped twice", "was cleaned", "lost pressure", "passed its check", "was replaced", "kept time")
_PEOPLE = ("Ines", "Marek", "Dr. Oyelaran", "the night crew", "Haruto", "two apprentices", "Signe", "the inspector")
_CAUSES = ("a worn seal", "salt in the line", "a loose earth wire", "the cold", "a late delivery", "wrong grease")
_NEXT = ("watch it for a week", "order the spare part", "leave it as it is", "open it on Monday", "ask the maker")


def _sentence(draw: random.Random) -> str:
    thing, person, hour = (
        draw.choice(_THINGS),
        draw.choice(_PEOPLE),
        f"{draw.randrange(24):02d}:{draw.randrange(60):02d}",
    )
    number = draw.randrange(11, 990)
    return draw.choice(
        (
            f"At {hour} {person} noted that {thing} {number} {draw.choice(_STATES)}.",
            f"{thing.capitalize()} {number} in hall {draw.randrange(1, 40)} {draw.choice(_STATES)} because of "
            f"{draw.choice(_CAUSES)}.",
            f"{person.capitalize()} measured {number / 10} bar at {thing} {draw.randrange(1, 60)}, "
            f"{draw.randrange(2, 30)} % less than on the day before.",
            f"Because of {draw.choice(_CAUSES)} it was agreed at {hour} to {draw.choice(_NEXT)}.",
        )
    )


def _long_prompt_row(draw: random.Random, number: int, times: float) -> tuple[Message, ...]:
    place, year = draw.choice(_PLACES), draw.randrange(1950, 2030)
    system = f"{draw.randrange(1000, 9999)} is the number of the log that you keep at {place}; it is the year {year}."
    sentences = min(36, max(3, round(times * draw.lognormvariate(1.93, 0.62))))
    report = " ".join(_sentence(draw) for _ in range(sentences))
    thing = draw.choice(_THINGS)
    question = f"{report}\n\nWhat does page {number} of the log say about the {thing}, and what shall we do?"
    answer = [_sentence(draw) for _ in range(min(12, max(1, round(times * draw.lognormvariate(1.32, 0.5)))))]
    answer.append(f"So we {draw.choice(_NEXT)}.")
    return (Message("system", system), Message("user", question), Message("assistant", " ".join(answer)))


def _long_prompts(times: float = 1.0) -> Iterator[tuple[Message, ...]]:
    """Without end, always the same; `times` as many sentences in each row."""
    draw = random.Random(20260101)
    return (_long_prompt_row(draw, number, times) for number in count())


def shared_data() -> Path:
    """The folder of real data sets: $TUNESMITH_SHARED_DATA, else shared/data beside the repository."""
    return Path(os.environ.get("TUNESMITH_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")


def _instructions() -> Iterable[tuple[Message, ...]]:
    rows = json.loads((shared_data() / _FILES["instruct-en"]).read_text("utf-8"))
    random.Random(7).shuffle(rows)
    for row in rows:
        asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        if asked and row["output"]:
            yield Message("user", asked), Message("assistant", row["output"])


def why_absent(shape: str) -> str:
    """Why a shape cannot be measured here; empty when it can."""
    if shape in _FILES and not (shared_data() / _FILES[shape]).is_file():
        return f"{shared_data() / _FILES[shape]} is missing; set TUNESMITH_SHARED_DATA to the folder of the data sets"
    return ""


def _questions() -> Iterable[tuple[Message, ...]]:
    """Several English questions a passage, the passage first, in the order of the file."""
    for line in (shared_data() / _FILES[QUESTIONS]).read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["lang"] == "en":
            asked = f"{row['context']}\n\n{row['question']}"
            yield Message("user", asked), Message("assistant", row["answers"][0]["text"])


_READERS: dict[str, Callable[[], Iterable[tuple[Message, ...]]]] = {
    "long-prompt": _long_prompts,
    LONG_ROWS: lambda: _long_prompts(times=3.0),
    "instruct-en": _instructions,
    QUESTIONS: _questions,
}
_SHORTEST = {LONG_ROWS: 800}


def make_prompts(task: ChatTask, wanted: int) -> Rows:
    """Prompts of long-prompt rows, for generation: nothing in them is learned."""
    prompts = [_row(task.prompt(messages[:2]), ()) for messages in islice(_long_prompts(), wanted + 4)]
    return Rows(tuple(prompts[:4]), tuple(prompts[4:]))


def make_rows(shape: str, task: ChatTask, *, warm_up: int, train: int, held_out: int = 0) -> Rows:
    """Rows of a shape that fit into the task's length, encoded: the first to warm up with, the next to be held out.

    Those to train on are batches out of a longer part of the file, so that they can be sorted as a long file can: few
    rows drawn at random would be padded more, and pad the others' figures in our favour. Questions keep their order.
    """
    together = 1 if shape == QUESTIONS else _PART
    wanted = warm_up + held_out + train * together
    rows = list(islice(_encoded(shape, task), wanted))
    if len(rows) < warm_up + held_out + train:
        raise ValueError(f"{shape} has {len(rows)} rows, and {warm_up + held_out + train} are wanted")
    judged = warm_up + held_out
    chosen = rows[judged:] if shape == QUESTIONS else _batches_of(rows[judged:], train)
    return Rows(tuple(rows[:warm_up]), tuple(chosen), tuple(rows[warm_up:judged]))


def _encoded(shape: str, task: ChatTask) -> Iterator[Row]:
    for number, messages in enumerate(_READERS[shape]()):
        encoded = task.encode(Example(number, "chat", Origin(shape, number), messages=messages))
        if not encoded.cut_tokens and len(encoded.features.token_ids) >= _SHORTEST.get(shape, 0):
            yield _row(encoded.features.token_ids, encoded.features.weights)


def _batches_of(rows: Sequence[Row], wanted: int) -> list[Row]:
    """Rows that stand together when all are sorted by length, from evenly spread places, shuffled."""
    ordered = sorted(rows, key=lambda row: len(row.token_ids))
    batches = math.ceil(wanted / _BATCH)
    chosen: list[Row] = []
    for place in range(batches):
        middle = (2 * place + 1) * len(ordered) // (2 * batches)
        first = min(max(0, middle - _BATCH // 2), len(ordered) - _BATCH)
        chosen += ordered[first : first + _BATCH]
    random.Random(11).shuffle(chosen)
    return chosen[:wanted]


def _row(token_ids: Sequence[int], weights: Sequence[float]) -> Row:
    return Row(tuple(token_ids), tuple(int(weight > 0) for weight in weights))
