"""Words that people wrote become chats, thumbs become likes: of Label Studio, of Argilla, and back to people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin, RowKind
from tunesmith.data.annotations.argilla import write_record
from tunesmith.data.annotations.give import item_of, written
from tunesmith.data.annotations.items import Answer, Item, Suggestion
from tunesmith.data.annotations.label_studio import read_task
from tunesmith.data.annotations.load import load_items
from tunesmith.data.annotations.rows import Tool
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.table import to_examples
from tunesmith.recipe.specs.sources import SourceSpec

ASKED: dict[str, object] = {"prompt": "Capital of Peru?", "answer": "Quito."}
TALK: dict[str, object] = {
    "prompt": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And Peru's capital?"},
    ],
    "answer": "Quito.",
}


def read(folder: Path, rows: object, wanted: RowKind, **source: object) -> tuple[list[Example], dict[str, int]]:
    (folder / "tasks.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    spec = SourceSpec.model_validate({"path": "tasks.json", **source})
    frame, _ = read_source(spec, "train", folder, Reading(wanted, None, 1), ledger := Ledger())
    return to_examples(frame), dict(ledger.totals())


def task(data: dict[str, object], *votes: dict[str, object], kind: str) -> dict[str, object]:
    """A task as a server exports it; annotators are numbered from 1."""
    results = [{"id": "r", "from_name": "q", "to_name": "answer", "type": kind, "value": value} for value in votes]
    annotations = [
        {"id": who, "completed_by": who, "was_cancelled": False, "ground_truth": False, "result": [result]}
        for who, result in enumerate(results, 1)
    ]
    return {"id": 7, "data": data, "annotations": annotations, "predictions": [], "drafts": []}


def record(fields: dict[str, object], *values: object) -> dict[str, object]:
    said = [{"value": value, "user_id": f"u{who}"} for who, value in enumerate(values, 1)]
    return {"id": "r1", "fields": fields, "suggestions": {}, "responses": {"q": said}}


def of_both(data: dict[str, object], *words: str) -> list[dict[str, object]]:
    """The same answers as each tool keeps them."""
    return [task(data, *({"text": [each]} for each in words), kind="textarea"), record(data, *words)]


@pytest.mark.parametrize("tool", [0, 1], ids=["label_studio", "argilla"])
def test_corrected_answers_become_chats(tmp_path: Path, tool: int) -> None:
    rows = [of_both(ASKED, "Lima.")[tool], of_both(TALK, "Lima, since 1535.")[tool]]
    first, second = read(tmp_path, rows, "chat")[0]
    assert first.messages == (Message("user", "Capital of Peru?"), Message("assistant", "Lima."))
    assert [turn.content for turn in second.messages] == ["Hi", "Hello.", "And Peru's capital?", "Lima, since 1535."]


@pytest.mark.parametrize("tool", [0, 1], ids=["label_studio", "argilla"])
def test_of_several_texts_the_one_that_most_wrote_is_learned(tmp_path: Path, tool: int) -> None:
    said = (("Lima.", "Lima.", "It is Lima."), ("Lima.", "It is Lima."), ("  ",))
    examples, totals = read(tmp_path, [of_both(ASKED, *words)[tool] for words in said], "chat")
    assert [each.messages[-1].content for each in examples] == ["Lima."]
    assert totals == {"kept": 1, "dropped: annotators_tied": 1, "dropped: not_annotated": 1}


def test_several_texts_of_one_person_are_no_answer(tmp_path: Path) -> None:
    rows = [
        task(ASKED, {"text": ["Lima.", "Cusco."]}, kind="textarea"),
        task(ASKED, {"text": "Lima."}, kind="textarea"),
    ]
    examples, totals = read(tmp_path, rows, "chat")
    assert len(examples) == 1 and totals["dropped: several_texts"] == 1
    with pytest.raises(RowDefect, match="several_texts"):
        write_record(read_task(rows[0]))


def test_a_remark_about_a_place_is_no_answer(tmp_path: Path) -> None:
    row = task(ASKED, {"text": ["why?"], "start": 0, "end": 3}, kind="textarea")
    with pytest.raises(TunesmithError, match=r"data\.no_question"):
        read(tmp_path, [row], "chat")


def test_short_words_of_argilla_are_learned_where_the_recipe_names_the_question(tmp_path: Path) -> None:
    with pytest.raises(TunesmithError, match=r"data\.no_question"):
        read(tmp_path, [record(ASKED, "Lima")], "chat")
    examples, _ = read(tmp_path, [record(ASKED, "Lima")], "chat", question="q")
    assert examples[0].messages[-1].content == "Lima"
    mixed = [record(ASKED, "Lima"), record(ASKED, "It is Lima, on the coast.")]  # one sentence tells for all
    assert len(read(tmp_path, mixed, "chat")[0]) == 2


@pytest.mark.parametrize(
    ("yes", "no"), [("👍", "👎"), ("liked", "disliked"), ("Thumbs up", "thumbs-down"), ("yes", "no"), ("赞", "踩")]
)
def test_thumbs_become_likes(tmp_path: Path, yes: str, no: str) -> None:
    for rows in (
        [task(ASKED, *({"choices": [each]} for each in votes), kind="choices") for votes in ([yes, yes, no], [no])],
        [record(ASKED, *votes) for votes in ([yes, yes, no], [no])],
    ):
        examples, totals = read(tmp_path, rows, "kto")
        assert [(each.messages[-1].content, each.label) for each in examples] == [("Quito.", True), ("Quito.", False)]
        assert totals == {"kept": 2}


def test_thumbs_of_whole_conversations_ratings_of_two_and_ties(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    examples, _ = read(tmp_path, [record({"chat": said}, 1), record({"chat": said}, 0)], "kto")
    assert [each.label for each in examples] == [True, False] and examples[0].messages[-1].content == "Hello."
    _, totals = read(tmp_path, [record(ASKED, "yes", "no"), record(ASKED, "no")], "kto")
    assert totals == {"kept": 1, "dropped: annotators_tied": 1}
    nothing_asked: dict[str, object] = {"one": "a", "two": "b", "answer": "c"}
    _, totals = read(tmp_path, [record(nothing_asked, "yes"), record(ASKED, "no")], "kto")
    assert totals == {"kept": 1, "dropped: missing_columns": 1}


@pytest.mark.parametrize("values", [("good", "so so"), (4, 5), (1, 1)])
def test_other_choices_say_nothing_of_liking(tmp_path: Path, values: tuple[object, ...]) -> None:
    with pytest.raises(TunesmithError, match=r"data\.no_question"):
        read(tmp_path, [record(ASKED, each) for each in values], "kto")


def turns(*said: str) -> tuple[Message, ...]:
    return tuple(Message("user" if place % 2 == 0 else "assistant", words) for place, words in enumerate(said))


def test_chats_and_likes_are_given_to_people(tmp_path: Path) -> None:
    chat = item_of(Example(0, "chat", Origin("a", 0), turns("Hi", "Hello.", "Peru?", "Quito.")))
    kto = item_of(Example(1, "kto", Origin("a", 1), turns("Peru?", "Quito."), label=False))
    assert chat.suggestions == {"correction": Suggestion(Answer("text", ("Quito.",)), "tunesmith")}
    assert (kto.fields, kto.suggestions["label"].answer.names) == (
        {"prompt": "Peru?", "answer": "Quito."},
        ("disliked",),
    )
    assert '<TextArea name="correction" toName="answer" rows="6" editable="true" maxSubmissions="1"/>' in (
        written([chat], "label_studio").interface
    )
    (made,) = json.loads(written([kto], "label_studio").content)
    assert made["predictions"][0]["result"][0]["to_name"] == "answer"
    for open_end in (
        turns("Hi"),
        (
            *turns("Hi"),
            Message("assistant", "", tool_calls=()),
        )[:1],
    ):
        with pytest.raises(RowDefect, match="not_for_people"):
            item_of(Example(0, "chat", Origin("a", 0), open_end))


@pytest.mark.parametrize("tool", ["label_studio", "argilla"])
def test_words_go_there_and_back(tool: Tool, tmp_path: Path) -> None:
    said = {"3": Answer("text", ("It is Lima.",)), "12": Answer("text", ("Lima",))}
    item = Item("1", ASKED, {"q": said}, {"q": Suggestion(Answer("text", ("Quito.",)), "m1", 0.5)}, ("3", "12"))
    (tmp_path / "out.json").write_text(written([item], tool).content, "utf-8")
    (found,), unread = load_items(tmp_path / "out.json")
    assert unread == 0 and found.said("q", "text") == said and found.suggestions == item.suggestions
    other: Tool = "argilla" if tool == "label_studio" else "label_studio"
    (tmp_path / "other.json").write_text(written([found], other).content, "utf-8")
    (again,), unread = load_items(tmp_path / "other.json")
    assert unread == 0 and again.said("q", "text") == said


def test_a_server_names_predictions_by_their_numbers() -> None:
    """As Label Studio 1.23 exports a task: a prediction stands whole only in the annotation that began from it."""
    begun = {"id": 4, "model_version": "m1", "score": None, "result": [
        {"id": "a", "from_name": "q", "to_name": "text", "type": "choices", "value": {"choices": ["good"]}}
    ]}  # fmt: skip
    row = task({"text": "fine"}, {"choices": ["bad"]}, kind="choices")
    row |= {"predictions": [4], "meta": {"id": "rows:12"}}
    annotations = row["annotations"]
    assert isinstance(annotations, list)
    annotations[0]["prediction"] = begun
    annotations.append({**annotations[0], "completed_by": 2, "prediction": {}})
    item = read_task(row)
    assert item.id == "rows:12" and item.votes["q"]["1"] == Answer("classes", ("bad",))
    assert item.suggestions == {"q": Suggestion(Answer("classes", ("good",)), "m1")}
