"""The rows of the benchmark: two shapes, encoded once by the product's own chat task.

`long-prompt`  made here: long prompts and short answers, about 330 tokens a row of which 30 % carry loss. Rows have
               nothing in common but the first tokens of the template, so nobody gains by sharing beginnings.
`instruct-en`  English instructions of the shared data, when they are there. Single turns without a system prompt:
               the model's template puts its default one before each.
`qa-xquad`     English questions of the shared data, about five a passage: rows that begin with the same document.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.exchange import Row, Rows
from tunesmith.core.types import Example, Message, Origin
from tunesmith.tasks.chat import ChatTask

SHAPES = ("long-prompt", "instruct-en")
QUESTIONS = "qa-xquad"
_FILES = {"instruct-en": "instruct-en/train.json", QUESTIONS: "qa-xquad/train.jsonl"}
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


def _long_prompt_row(draw: random.Random, number: int) -> tuple[Message, ...]:
    place, year = draw.choice(_PLACES), draw.randrange(1950, 2030)
    system = f"{draw.randrange(1000, 9999)} is the number of the log that you keep at {place}; it is the year {year}."
    sentences = min(36, max(3, round(draw.lognormvariate(1.93, 0.62))))
    report = " ".join(_sentence(draw) for _ in range(sentences))
    thing = draw.choice(_THINGS)
    question = f"{report}\n\nWhat does page {number} of the log say about the {thing}, and what shall we do?"
    answer = [_sentence(draw) for _ in range(min(12, max(1, round(draw.lognormvariate(1.42, 0.5)))))]
    answer.append(f"So we {draw.choice(_NEXT)}.")
    return (Message("system", system), Message("user", question), Message("assistant", " ".join(answer)))


def _long_prompts(count: int) -> Iterable[tuple[Message, ...]]:
    draw = random.Random(20260101)
    return (_long_prompt_row(draw, number) for number in range(count))


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


_READERS = {"instruct-en": _instructions, QUESTIONS: _questions}


def make_prompts(task: ChatTask, count: int) -> Rows:
    """Prompts of long-prompt rows, for generation: nothing in them is learned."""
    prompts = [_row(task.prompt(messages[:2]), ()) for messages in _long_prompts(count + 4)]
    return Rows(tuple(prompts[:4]), tuple(prompts[4:]))


def make_rows(shape: str, task: ChatTask, *, warm_up: int, train: int, held_out: int = 0) -> Rows:
    """The first rows of a shape that fit into the task's length, encoded."""
    wanted = warm_up + train + held_out
    made = {"long-prompt": lambda: _long_prompts(2 * wanted), "instruct-en": _instructions, QUESTIONS: _questions}[
        shape
    ]()
    kept: list[Row] = []
    for messages in made:
        encoded = task.encode(Example(len(kept), "chat", Origin(shape, len(kept)), messages=messages))
        if not encoded.cut_tokens:
            kept.append(_row(encoded.features.token_ids, encoded.features.weights))
        if len(kept) == wanted:
            return Rows(tuple(kept[:warm_up]), tuple(kept[warm_up : warm_up + train]), tuple(kept[warm_up + train :]))
    raise ValueError(f"{shape} has {len(kept)} rows, and {wanted} are wanted")


def _row(token_ids: Sequence[int], weights: Sequence[float]) -> Row:
    return Row(tuple(token_ids), tuple(int(weight > 0) for weight in weights))
