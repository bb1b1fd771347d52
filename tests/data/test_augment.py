from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin
from tunesmith.data.augment.apply import augmented
from tunesmith.data.prepare import load_tables, prepare, write
from tunesmith.data.prepared import Prepared
from tunesmith.data.readable import readable
from tunesmith.data.rejected import rejected_rows
from tunesmith.data.table import from_examples
from tunesmith.recipe.specs.augment import AugmentSpec
from tunesmith.recipe.specs.data import DataSpec

SYNONYMS = "lost missing\ncard pass ticket\nbroken damaged\n银行 钱庄\n"


def spec(**settings: object) -> AugmentSpec:
    return AugmentSpec.model_validate(settings)


def text(row: int, said: str, *labels: str, group: str = "") -> Example:
    return Example(row, "text_class", Origin("a", row, group), text=said, labels=labels)


def read(examples: Sequence[Example]) -> tuple[pl.DataFrame, Ledger]:
    ledger = Ledger()
    ledger.read("a", len(examples))
    return from_examples(examples), ledger


class Answers:
    """A generator that answers as it is told."""

    def __init__(self, answer: Callable[[str], str | None]) -> None:
        self._answer = answer
        self.asked: list[str] = []

    def generate(self, prompts: Sequence[str]) -> list[str | None]:
        self.asked += prompts
        return [self._answer(prompt) for prompt in prompts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text(SYNONYMS, "utf-8")
    return tmp_path


WORDS = {"synonyms": {"dictionary": "words.txt", "share": 0.5}}


def test_children_keep_parent_group_label_and_have_a_line_in_the_ledger(folder: Path) -> None:
    rows = [
        text(0, "my card is lost", "card", group="x"),
        text(1, "hello there", "greeting"),
        text(2, "broken", "card"),
    ]
    frame, ledger = read(rows)
    made, notes = augmented(spec(**WORDS), frame, {}, folder, ledger)
    children = made.filter(pl.col("parent").is_not_null())
    assert children.select("row", "parent", "group", "index").rows() == [(3, 0, "x", 0), (4, 2, "", 2)]
    assert children["labels"].to_list() == [["card"], ["card"]] and children["text"][1] == "damaged"
    assert [(each.parent, each.reason, each.fate) for each in ledger.entries()[3:]] == [
        (0, "made_by_synonyms", "kept"),
        (2, "made_by_synonyms", "kept"),
    ]
    ledger.check(made["row"])
    assert made.head(3).equals(frame) and notes[0].facts == {"made": 2, "kept": 2}


def test_a_child_depends_on_its_parent_alone(folder: Path) -> None:
    settings = spec(edit={"children": 3, "swap": 0.3, "delete": 0.3}, **WORDS)
    rows = [text(number, f"row {chr(97 + number)} says my card is lost or broken today") for number in range(9)]
    one, again = made_from(settings, rows, folder), made_from(settings, rows, folder)
    assert one.equals(again)
    fewer = [replace(row, row=number) for number, row in enumerate(rows[::2])]
    other = made_from(settings, fewer, folder)
    said = _texts(one)
    assert {2 * parent: texts for parent, texts in _texts(other).items()}.items() <= said.items()
    assert _texts(made_from(settings.model_copy(update={"seed": 1}), rows, folder)) != said


def made_from(settings: AugmentSpec, rows: Sequence[Example], folder: Path) -> pl.DataFrame:
    frame, ledger = read(rows)
    return augmented(settings, frame, {}, folder, ledger)[0]


def _texts(made: pl.DataFrame) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for parent, said in made.filter(pl.col("parent").is_not_null()).select("parent", "text").iter_rows():
        found.setdefault(parent, []).append(said)
    return found


def test_a_child_that_repeats_a_row_or_asks_what_is_tested_goes(folder: Path) -> None:
    frame, ledger = read([text(0, "card", "a"), text(1, "lost", "a"), text(2, "missing", "a"), text(3, "broken", "b")])
    tested = from_examples([text(9, "Damaged!", "b")])
    made, _ = augmented(spec(**WORDS), frame, {"test": tested}, folder, ledger)
    fates = {each.parent: (each.fate, each.reason, each.amount) for each in ledger.entries()[4:]}
    assert fates[1] == ("merged", "exact_duplicate_of_row", 2)
    assert fates[2] == ("merged", "exact_duplicate_of_row", 1)
    assert fates[3] == ("dropped", "prompt_also_in_test", 0)
    assert len(made) == 5
    ledger.check(made["row"])


def test_of_a_conversation_what_the_user_says_last_changes_and_nothing_else(folder: Path) -> None:
    turns = (
        Message("system", "lost"), Message("user", "lost"), Message("assistant", "lost", 0.0),
        Message("user", "lost"), Message("assistant", "lost"),
    )  # fmt: skip
    frame, ledger = read([Example(0, "chat", Origin("a", 0), turns, tools="[]")])
    made, _ = augmented(spec(**WORDS), frame, {}, folder, ledger)
    child = readable(made.row(1, named=True))
    said = [turn["content"] for turn in child["messages"]]  # type: ignore[attr-defined]
    assert said == ["lost", "lost", "lost", "missing", "lost"] and child["tools"] == "[]"
    assert child["messages"][2]["weight"] == 0.0  # type: ignore[index]


def test_tags_stay_with_their_tokens(folder: Path) -> None:
    row = Example(
        0, "token_class", Origin("a", 0), tokens=("lost", "card", "in", "Card"), labels=("O", "O", "O", "B-place")
    )
    frame, ledger = read([row])
    made, _ = augmented(spec(synonyms={"dictionary": "words.txt", "share": 1.0}), frame, {}, folder, ledger)
    tokens = made["tokens"].to_list()[1]
    assert tokens[0] == "missing" and tokens[1] in ("pass", "ticket") and tokens[2:] == ["in", "Card"]
    assert made["labels"].to_list()[1] == ["O", "O", "O", "B-place"]
    with pytest.raises(TunesmithError, match=r"augment\.tagged_rows"):
        augmented(spec(edit={}), frame, {}, folder, ledger)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ({"up_to": "most"}, {"a": 9, "b": 9, "c": 9}),
        ({"up_to": "median"}, {"a": 9, "b": 4, "c": 4}),
        ({"up_to": None, "down_to": "least"}, {"a": 1, "b": 1, "c": 1}),
        ({"up_to": 3, "down_to": "median"}, {"a": 4, "b": 4, "c": 3}),
        ({"up_to": 20, "down_to": 5}, {"a": 20, "b": 20, "c": 20}),
    ],
)
def test_classes_are_as_frequent_as_asked(folder: Path, balance: dict[str, object], expected: dict[str, int]) -> None:
    labels = "a" * 9 + "b" * 4 + "c"
    frame, ledger = read([text(number, f"text {number}", label) for number, label in enumerate(labels)])
    made, _ = augmented(spec(balance=balance), frame, {}, folder, ledger)
    assert Counter(label for (label,) in made["labels"]) == expected
    ledger.check(made["row"])
    copies = made.filter(pl.col("parent").is_not_null())
    assert all(
        made.filter(row=parent)["text"].item() == said for parent, said in copies.select("parent", "text").rows()
    )
    uses = [count for count in Counter(copies["parent"]).values()]
    assert not uses or expected["c"] >= max(uses)


def test_repetitions_are_spread_over_all_rows_of_a_class(folder: Path) -> None:
    frame, ledger = read([text(number, f"text {number}", "ab"[number < 3]) for number in range(13)])
    made, _ = augmented(spec(balance={"up_to": 10}), frame, {}, folder, ledger)
    uses = Counter(made.filter(pl.col("parent").is_not_null())["parent"])
    assert set(uses) == {0, 1, 2} and max(uses.values()) - min(uses.values()) <= 1


def test_only_labelled_texts_are_balanced_by_label(folder: Path) -> None:
    frame, ledger = read([Example(0, "chat", Origin("a", 0), (Message("user", "x"), Message("assistant", "y")))])
    with pytest.raises(TunesmithError, match=r"augment\.nothing_to_balance"):
        augmented(spec(balance={}), frame, {}, folder, ledger)


MODEL = {"generator": {"model": "any"}}


def test_a_models_words_pass_a_gate_and_the_ledger_says_what_does_not(folder: Path) -> None:
    answers = {
        "first text here": " other words here ",
        "second text here": None,
        "third text here": "x" * 100,
        "fourth text here": "Fourth text here",
        "fifth text here": "tested words",
    }
    rows = [text(number, said, "a") for number, said in enumerate(answers)]
    frame, ledger = read(rows)
    generator = Answers(lambda prompt: next(answer for said, answer in answers.items() if said in prompt))
    tested = from_examples([text(9, "tested words")])
    made, _ = augmented(spec(paraphrase={}, **MODEL), frame, {"test": tested}, folder, ledger, generator)
    fates = [(each.parent, each.fate, each.reason) for each in ledger.entries()[5:]]
    assert fates == [
        (0, "kept", "made_by_paraphrase"),
        (1, "dropped", "made_without_answer"),
        (2, "dropped", "made_of_odd_length"),
        (3, "kept", "made_by_paraphrase"),
        (4, "dropped", "prompt_also_in_test"),
    ]
    assert made["text"].to_list()[5:] == ["other words here", "Fourth text here"]


def test_back_translation_goes_there_and_back(folder: Path) -> None:
    frame, ledger = read([text(0, "my card is lost", "a"), text(1, "我的卡丢了", "b"), text(2, "not at all", "b")])

    def answer(prompt: str) -> str | None:
        if "not at all" in prompt:
            return None
        if "into German" in prompt:
            return "<<<meine Karte>>>"
        if "into French" in prompt:
            return "ma carte ici"
        return "我的卡不见了" if "into Chinese" in prompt else "the card is gone" + "!" * ("ma carte" in prompt)

    generator = Answers(answer)
    settings = spec(back_translate={"children": 2, "by_way_of": ["German", "French"]}, **MODEL)
    made, _ = augmented(settings, frame, {}, folder, ledger, generator)
    assert _texts(made) == {0: ["the card is gone", "the card is gone!"], 1: ["我的卡不见了"]}
    assert len(generator.asked) == 6 + 4
    assert ledger.totals()["dropped: made_without_answer"] == 2
    assert ledger.totals()["merged: exact_duplicate_of_row"] == 1


def test_rows_that_a_model_writes_pass_a_gate(folder: Path) -> None:
    labels = ("card", "account")
    frame, ledger = read(
        [text(number, f"question about thing {chr(97 + number)}", labels[number % 2]) for number in range(6)]
    )
    replies: Iterator[str | None] = iter(
        [
            'Sure: {"text": "why was my payment declined", "label": "card"}',
            '{"text": "why was my payment declined?", "label": "card"}',
            '{"text": "something else entirely", "label": "unknown"}',
            "no JSON here",
            '{"text": "", "label": "card"}',
            '{"text": ["a"], "label": "card"}',
            json.dumps({"text": "word " * 99, "label": "card"}),
            None,
            '{"text": "question about thing c", "label": "card"}',
            "[" * 9999,
            '{"text": "how do I close my account now", "label": "account"}',
        ]
    )
    generator = Answers(lambda prompt: next(replies))
    tested = {"test": from_examples([text(99, "How do I close my account", "account")])}
    made, _ = augmented(spec(synthesize={"rows": 11}, **MODEL), frame, tested, folder, ledger, generator)
    reasons = [each.reason for each in ledger.entries()[6:]]
    assert reasons == [
        "made_by_synthesis", "made_too_similar", "made_with_unknown_label", "made_unreadable", "made_unreadable",
        "made_unreadable", "made_of_odd_length", "made_without_answer", "made_too_similar", "made_unreadable",
        "made_too_similar",
    ]  # fmt: skip
    assert made["text"].to_list()[6:] == ["why was my payment declined"] and made["labels"].to_list()[6:] == [["card"]]
    assert len(set(generator.asked)) == 11, "no two requests are the same, so that no two answers must be"
    ledger.check(made["row"])


def test_conversations_are_written_from_documents_by_a_schema(folder: Path) -> None:
    (folder / "faq.txt").write_text("Cards are sent by post.\n" * 300, "utf-8")
    (folder / "schema.json").write_text('{"type": "object", "required": ["kind"]}', "utf-8")
    turns = (Message("system", "be brief"), Message("user", "old question"), Message("assistant", '{"kind": "x"}'))
    frame, ledger = read([Example(0, "chat", Origin("a", 0, "group"), turns)])
    replies = iter(
        ['{"prompt": "when comes it", "answer": "{\\"kind\\": 1}"}', '{"prompt": "how much", "answer": "{}"}']
    )
    generator = Answers(lambda prompt: next(replies))
    asked = {"rows": 2, "documents": ["faq.txt"], "schema_file": "schema.json", "instruction": "About cards."}
    made, _ = augmented(spec(synthesize=asked, **MODEL), frame, {}, folder, ledger, generator)
    child = made.row(1, named=True)
    assert [turn["content"] for turn in child["messages"]] == ["be brief", "when comes it", '{"kind": 1}']
    assert child["group"] == "group" and ledger.entries()[2].reason == "made_against_schema"
    assert all("Cards are sent by post." in each and "About cards." in each for each in generator.asked)
    assert all(len(each) < 4_000 for each in generator.asked)
    for name, content, code in (
        ("absent.json", None, "core.missing_file"),
        ("odd.json", "{", "augment.broken_schema"),
        ("list.json", "[1]", "augment.broken_schema"),
    ):
        if content is not None:
            (folder / name).write_text(content, "utf-8")
        with pytest.raises(TunesmithError, match=code):
            settings = spec(synthesize={"rows": 1, "schema_file": name}, **MODEL)
            augmented(settings, frame, {}, folder, ledger, generator)


def test_without_a_generator_a_note_says_what_was_left_out(folder: Path) -> None:
    frame, ledger = read([text(0, "a b c")])
    made, notes = augmented(spec(paraphrase={}, **MODEL), frame, {}, folder, ledger)
    assert made.equals(frame) and [note.code for note in notes] == ["augment.no_model_asked"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"generator": {"model": "x"}},
        {"paraphrase": {}},
        {"edit": {"swap": 0.0, "delete": 0.0}},
        {"balance": {"up_to": None}},
        {"balance": {"up_to": 0}},
        {"synonyms": {"share": 0.0}},
        {"synonym": {}},
    ],
)
def test_settings_that_can_do_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**wrong)


# --------------------------------------------------------------------------------------- in the whole


def whole(folder: Path, **augment: object) -> Prepared:
    rows = [{"text": f"my card number {chr(97 + n % 26)}{n} is lost", "label": "xyz"[n % 3]} for n in range(60)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = {"augment": augment} if augment else {}
    data = {"task": "text_class", "sources": [{"path": "a.jsonl"}], **settings}
    return prepare(DataSpec.model_validate(data), folder, Ledger())


def test_validation_and_test_stay_as_they_are_and_the_ledger_adds_up(folder: Path) -> None:
    plain, made = whole(folder), whole(folder, edit={}, balance={"up_to": "most"}, **WORDS)
    for split in ("validation", "test"):
        assert plain.frames[split].equals(made.frames[split])  # type: ignore[index]
    train = made.frames["train"]
    parents = set(train.filter(pl.col("parent").is_not_null())["parent"])
    assert parents <= set(plain.frames["train"]["row"]) and len(train) > 2 * len(plain.frames["train"])
    assert made.version.id != plain.version.id
    assert made.version == whole(folder, edit={}, balance={"up_to": "most"}, **WORDS).version
    written = write(made, folder / "run")
    assert "made_by" not in written[-1].read_text("utf-8") and "数据增强生成的行" in written[-1].read_text("utf-8")
    stored = load_tables(folder / "run")["train"]
    assert stored["parent"].to_list() == train["parent"].to_list()
    made.ledger.write(folder / "ledger.jsonl")
    ledger = Ledger.load(folder / "ledger.jsonl")
    ledger.check(row for frame in made.tables.values() for row in frame["row"])
    data = DataSpec.model_validate({"task": "text_class", "sources": [{"path": "a.jsonl"}]})
    assert list(rejected_rows(data, folder, ledger)) == []
