"""Whatever a model learns from is held apart from what it is asked, whoever wrote it and wherever it comes in."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin
from tunesmith.data.dedup import Embedder
from tunesmith.data.keys import said
from tunesmith.data.near_stored import near_leaks
from tunesmith.data.prepare import load_beside, prepare
from tunesmith.data.prepare import write as write_run
from tunesmith.data.prepared import Prepared
from tunesmith.data.table import from_examples
from tunesmith.recipe.recipe import Recipe

QUESTION = "Which river flows through the old town where the travellers crossed the wooden bridge at dawn"
TESTED = "The harbour master closed the northern gate before the storm reached the sleeping fishing village"
LISTED, MAIL, NONSENSE = (
    "forbiddenword",
    "lena.fischer@example.org",
    "xkcdqwrtzpsdfghjkl mnbvcxzlkjhgf qwrtzpsdfg hjklmnb",
)
GENERATOR = {"generator": {"model": "any"}}


class Answers:
    """A generator that answers as it is told."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self._answer = answer

    def generate(self, prompts: Sequence[str]) -> list[str | None]:
        return [self._answer(prompt) for prompt in prompts]


def row(text: str, label: str = "x") -> dict[str, str]:
    return {"text": text, "label": label}


def plain(count: int, word: str) -> list[dict[str, str]]:
    return [
        row(f"{word} number {chr(97 + n % 26)}{n} says a thing of its own about topic {n * 7}") for n in range(count)
    ]


def write(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "rows.jsonl", plain(30, "training"))
    write(tmp_path / "validation.jsonl", plain(5, "validating"))
    write(tmp_path / "test.jsonl", [*plain(5, "testing"), row(TESTED)])
    write(tmp_path / "leaks.jsonl", [*plain(6, "older"), row(f"Tell me. {QUESTION}?"), row(TESTED.upper() + "!")])
    write(tmp_path / "probe.jsonl", [{"question": "short one"}, {"question": QUESTION}])
    (tmp_path / "words.txt").write_text("river brook\n", "utf-8")
    (tmp_path / "listed.txt").write_text(LISTED, "utf-8")
    return tmp_path


def built(
    folder: Path,
    data: Mapping[str, object],
    stage: Mapping[str, object] | None = None,
    answer: Callable[[str], str] = lambda prompt: "",
    embed: Embedder | None = None,
) -> Prepared:
    sources = {
        "sources": [{"path": "rows.jsonl"}],
        "validation_sources": [{"path": "validation.jsonl"}],
        "test_sources": [{"path": "test.jsonl"}],
        "benchmarks": [{"path": "probe.jsonl", "name": "probe"}],
    }
    recipe = Recipe.model_validate(
        {
            "model": {"base": "minilm-l6"},
            "data": {"task": "text_class", **sources, **data},
            "stages": [{"name": "one", **(stage or {})}],
        }
    )
    return prepare(recipe.data, folder, Ledger(), recipe.stages, Answers(answer), embed=embed)


def learned(found: Prepared) -> list[str]:
    tables = (frame for name, frame in found.tables.items() if not name.endswith(("validation", "test")))
    return [text for frame in tables for text in frame.select(said())["said"]]


def leaked(found: Prepared) -> list[str]:
    return [text for text in learned(found) if "wooden bridge at dawn" in text or "harbour master" in text.lower()]


SOURCES = [{"path": "leaks.jsonl"}]
WAYS: dict[str, dict[str, object]] = {
    "source": {"data": {"sources": [{"path": "rows.jsonl"}, {"path": "leaks.jsonl"}]}},
    "stage": {"stage": {"data": {"task": "text_class", "sources": SOURCES}}},
    "replay": {"stage": {"replay": {"sources": SOURCES}}},
    "ewc": {"stage": {"penalties": {"ewc": {"weight": 1.0, "sources": SOURCES}}}},
    "target": {"stage": {"objective": {"kind": "adversarial", "kl": 1.0, "target_sources": SOURCES}}},
    "paraphrase": {"data": {"augment": {"paraphrase": {}, **GENERATOR}}},
    "back translation": {"data": {"augment": {"back_translate": {"by_way_of": ["German"]}, **GENERATOR}}},
    "synthesis": {"data": {"augment": {"synthesize": {"rows": 12}, **GENERATOR}}},
}


@pytest.mark.parametrize("way", WAYS)
def test_planted_leaks_are_told_and_gone_whatever_way_they_come(folder: Path, way: str) -> None:
    turn = iter(range(1000))

    def answer(prompt: str) -> str:
        number = next(turn) % 6
        text = (
            (f"Tell me. {QUESTION}?", TESTED.lower())[number] if number < 2 else f"words {next(turn)} of another kind"
        )
        text += " " + "and more to be as long" * (number > 1)
        return json.dumps({"text": text, "label": "x"}) if "Write one new example" in prompt else text

    stated = WAYS[way]
    found = built(folder, stated.get("data", {}), stated.get("stage"), answer)  # type: ignore[arg-type]
    assert leaked(found) == []
    totals = found.ledger.totals()
    assert totals["dropped: repeats_benchmark"] >= 1
    assert totals.get("dropped: prompt_also_in_test", 0) + totals.get("dropped: made_too_similar", 0) >= 1
    repeated = [each.amount for each in found.ledger.entries() if each.reason == "repeats_benchmark"]
    assert set(repeated) == {1}, "the ledger names the benchmark's row"
    assert any(each.code == "data.benchmark_kept_out" and each.facts["rows"] for each in found.notes)


@pytest.mark.parametrize("what", ["replay", "ewc", "target"])
def test_rows_beside_a_stages_own_are_held_apart_from_its_own_validation(folder: Path, what: str) -> None:
    """A stage is stopped by its own validation: what it replays of that would make it look as if it had learned."""
    asked = "the miller counted every sack of flour twice before the market of the valley opened"
    other = "the miller sold his oldest donkey to a travelling glazier who paid with nine coloured windows"
    write(folder / "own.jsonl", plain(20, "owning"))
    write(folder / "own-validation.jsonl", [*plain(4, "judging"), row(asked), row(other)])
    write(folder / "leaks.jsonl", [*plain(6, "older"), row(asked), row(f"{other} again")])
    own = {
        "task": "text_class",
        "sources": [{"path": "own.jsonl"}],
        "validation_sources": [{"path": "own-validation.jsonl"}],
        "clean": {"near_duplicates": 0.7},
    }
    stage = {**WAYS[what]["stage"], "data": own}  # type: ignore[dict-item]
    ledger = Ledger()
    stated = Recipe.model_validate(
        {
            "model": {"base": "minilm-l6"},
            "data": {"task": "text_class", "sources": [{"path": "rows.jsonl"}]},
            "stages": [{"name": "one", **stage}, {"name": "two"}],
        }
    )
    found = prepare(stated.data, folder, ledger, stated.stages)
    assert not [text for text in found.tables[f"one-{what}"]["text"] if "miller" in text.lower()]
    assert [text for text in found.tables["one-validation"]["text"] if "miller" in text] == [asked, other]
    totals = ledger.totals()
    assert totals["dropped: prompt_also_in_validation"] == 1 and totals["dropped: prompt_near_one_in_validation"]
    write_run(found, folder / "run")
    load_beside(folder / "run")
    assert near_leaks(found.tables, stated).is_empty()
    planted = {
        **found.tables,
        f"one-{what}": found.tables[f"one-{what}"].clear().vstack(found.tables["one-validation"]),
    }
    assert near_leaks(planted, stated)["name"].unique().to_list() == [f"one-{what}"]
    write_run(replace(found, beside={**found.beside, f"one-{what}": planted[f"one-{what}"]}), folder / "leaking")
    with pytest.raises(TunesmithError) as refused:
        load_beside(folder / "leaking")
    assert refused.value.code == "data.leak"


def test_words_put_in_place_of_others_do_not_make_a_benchmarks_question(folder: Path) -> None:
    # With the dictionary's word the row holds half of the question's runs of eight words, without it none.
    half = "Which brook flows through the old town where the travellers crossed the wooden"
    write(folder / "rows.jsonl", [*plain(30, "training"), row(half)])
    found = built(folder, {"augment": {"synonyms": {"dictionary": "words.txt", "share": 1.0}}})
    assert not [text for text in learned(found) if "river" in text.lower()]
    assert found.ledger.totals()["dropped: repeats_benchmark"] == 1


RULES = {
    "pii": {"action": "mask"},
    "content": {"word_lists": [{"path": "listed.txt", "action": "drop"}]},
    "filter": {"rules": ["gibberish", "too_short"]},
}


@pytest.mark.parametrize("way", ["paraphrase", "back translation", "synthesis"])
def test_what_a_model_writes_passes_the_rules_of_rows_that_were_read(folder: Path, way: str) -> None:
    turn = iter(range(1000))
    faults = [
        f"this text has the {LISTED} in it, which nobody wants",
        f"please write a mail to {MAIL} and tell me",
        NONSENSE,
    ]

    def answer(prompt: str) -> str:
        number = next(turn)
        text = (
            faults[number % 4] + f" {number}"
            if number % 4 < 3
            else f"all is well with this text of the number {number}"
        )
        return json.dumps({"text": text, "label": "x"}) if "Write one new example" in prompt else text

    found = built(folder, {**WAYS[way]["data"], "clean": RULES}, answer=answer)  # type: ignore[dict-item]
    said_there = "\n".join(learned(found))
    assert LISTED not in said_there and MAIL not in said_there and NONSENSE not in said_there
    assert "<EMAIL_1>" in said_there and "all is well" in said_there
    totals = found.ledger.totals()
    assert totals["dropped: listed_content"] and totals["dropped: gibberish"]
    assert found.ledger.changed()["masked_email"][0] >= 1
    assert {each.split: each.rows for each in found.listed}["train/made"] == totals["dropped: listed_content"]
    found.ledger.check(each for frame in found.tables.values() for each in frame["row"])


def chat(number: int, asked: str, answered: str) -> Example:
    turns = (Message("user", asked), Message("assistant", answered))
    return Example(number, "chat", Origin("a", number), turns)


def test_a_teachers_answers_pass_the_rules_and_the_benchmarks(folder: Path) -> None:
    lines = [{"prompt": f"question {n} about {chr(97 + n)}", "completion": f"answer {n}, plainly"} for n in range(24)]
    write(folder / "chats.jsonl", lines)
    data = {
        "task": "chat",
        "sources": [{"path": "chats.jsonl"}],
        "validation_sources": [],
        "test_sources": [],
        "clean": {**RULES, "filter": {"rules": ["refusal", "conflicting_answers"]}},
    }
    found = built(folder, data)
    train = found.frames["train"]
    rows = train["row"].to_list()
    answers = [f"Well: {QUESTION}", f"the {LISTED}", f"write to {MAIL}", "As an AI model, I cannot do that."]
    asked = train["messages"].list.first().struct.field("content").to_list()
    answered = [
        chat(number, prompt, answers[place] if place < 4 else "a good answer")
        for place, (number, prompt) in enumerate(zip(rows, asked, strict=True))
    ]
    after = found.admitting("train", from_examples(answered))
    assert leaked(after) == [] and after.frames["train"]["row"].to_list() == [rows[2], *rows[4:]]
    assert after.frames["train"]["messages"][0][1]["content"] == "write to <EMAIL_1>"
    gone = {each.row: each.reason for each in after.ledger.entries() if each.fate == "dropped"}
    assert [gone[each] for each in (rows[0], rows[1], rows[3])] == ["repeats_benchmark", "listed_content", "refusal"]
    assert [each.split for each in after.listed] == ["train", "train/made"]


def test_a_made_row_may_not_contradict_one_that_was_read(folder: Path) -> None:
    lines = [{"prompt": f"question {n} about {chr(97 + n)}", "completion": f"answer {n}, plainly"} for n in range(24)]
    write(folder / "chats.jsonl", lines)
    data = {"task": "chat", "sources": [{"path": "chats.jsonl"}], "validation_sources": [], "test_sources": []}
    clean = {"clean": {"filter": {"rules": ["conflicting_answers"]}}}
    asked = {"augment": {"paraphrase": {}, **GENERATOR}}
    first, second = built(folder, data).frames["train"]["messages"].list.first().struct.field("content")[:2]

    def answer(prompt: str) -> str:
        return first.upper() if second in prompt else prompt.split("<<<")[1].strip(">\n ") + " please"

    found = built(folder, {**data, **clean, **asked}, answer=answer)
    assert found.ledger.totals()["dropped: conflicting_answers"] == 1


# --------------------------------------------------------------------------------------------- by meaning


def by_subject(texts: Sequence[str]) -> np.ndarray:
    """Vectors that are equal for texts about the same of two subjects, and at right angles for all others."""
    subjects = ("refund", "tide")
    vectors = np.zeros((len(texts), 4096), np.float32)
    for place, text in enumerate(texts):
        known = next((number for number, word in enumerate(subjects) if word in text), None)
        vectors[place, known if known is not None else 2 + zlib.crc32(text.encode()) % 4094] = 1
    return vectors


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_mean_what_is_asked_are_told_and_gone_whatever_way_they_come(folder: Path, way: str) -> None:
    write(folder / "test.jsonl", [*plain(5, "testing"), row("how do I get a refund of what I paid")])
    write(folder / "probe.jsonl", [{"question": "no"}, {"question": "why does the tide rise twice a day"}])
    meant = ["I want my refund, please", "the tide comes and goes, what for"]
    write(folder / "leaks.jsonl", [*plain(6, "older"), *map(row, meant), row("no")])
    turn = iter(range(1000))

    def answer(prompt: str) -> str:
        number = next(turn) % 6
        text = meant[number] if number < 2 else f"words {next(turn)} of another kind and more to be as long"
        return json.dumps({"text": text + " now", "label": "x"}) if "Write one new example" in prompt else text + " now"

    stated = WAYS[way]
    data = {**stated.get("data", {}), "clean": {"semantic_duplicates": 0.95}}  # type: ignore[dict-item]
    found = built(folder, data, stated.get("stage"), answer, by_subject)  # type: ignore[arg-type]
    assert not [text for text in learned(found) if "refund" in text or "tide" in text]
    entries = found.ledger.entries()
    [test_row] = found.frames["test"].filter(pl.col("text").str.contains("refund"))["row"]
    partners = {reason: {each.amount for each in entries if each.reason == reason} for reason in MEANT}
    assert partners == {"prompt_means_one_in_test": {test_row}, "means_one_in_benchmark": {1}}
    codes = {each.code for each in found.notes if each.facts.get("rows")}
    assert {"data.meaning_kept_apart", "data.benchmark_meaning_kept_out"} <= codes
    if "leaks" in str(stated):
        assert "no" in learned(found), "an answer to choose from is no question"


MEANT = ("prompt_means_one_in_test", "means_one_in_benchmark")


def test_of_a_text_one_vector_is_made_however_often_it_is_compared(folder: Path) -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return by_subject(texts)

    stated = {"clean": {"semantic_duplicates": 0.95}}
    built(folder, stated, {"replay": {"sources": SOURCES}}, embed=embed)
    assert max(Counter(asked).values()) <= 2, "once for the table itself, once for the wall"
