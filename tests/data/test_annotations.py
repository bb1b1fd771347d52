"""Annotations of Label Studio and Argilla: what becomes of them as rows, merged by majority, and there and back."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin, RowKind
from tunesmith.data.annotations.argilla import read_record
from tunesmith.data.annotations.give import LEFT, RIGHT, item_of, written
from tunesmith.data.annotations.items import Answer, Item, Span, Suggestion, pair_of
from tunesmith.data.annotations.label_studio import read_task
from tunesmith.data.annotations.load import load_items
from tunesmith.data.annotations.merge import decided
from tunesmith.data.annotations.rows import Tool
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.table import to_examples
from tunesmith.recipe.specs.sources import SourceSpec

GOLDEN = Path(__file__).parent / "annotations"


def result(kind: str, value: dict[str, object], question: str) -> dict[str, object]:
    return {"id": "a", "from_name": question, "to_name": "text", "type": kind, "origin": "manual", "value": value}


def choice(*names: str, question: str = "sentiment") -> dict[str, object]:
    return result("choices", {"choices": list(names)}, question)


def places(*marked: tuple[int, int, str], text: str = "") -> list[dict[str, object]]:
    return [
        result(
            "labels",
            {"start": first, "end": end, "labels": [label], **({"text": text[first:end]} if text else {})},
            "ner",
        )
        for first, end, label in marked
    ]


def task(data: dict[str, object], *votes: list[dict[str, object]], **more: object) -> dict[str, object]:
    """A task whose annotators are numbered from 1."""
    annotations = [
        {"id": 10 + who, "completed_by": who, "was_cancelled": False, "ground_truth": False, "result": said}
        for who, said in enumerate(votes, 1)
    ]
    return {"id": 7, "data": data, "annotations": annotations, "predictions": [], "project": 1, **more}


def read(
    folder: Path, rows: list[dict[str, object]], wanted: RowKind, **source: object
) -> tuple[list[Example], Ledger]:
    (folder / "tasks.json").write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    ledger = Ledger()
    spec = SourceSpec.model_validate({"path": "tasks.json", **source})
    frame, report = read_source(spec, "train", folder, Reading(wanted, None, 1), ledger)
    assert report.files[0].layout in ("label_studio", "argilla")
    return to_examples(frame), ledger


def test_choices_become_labels_by_majority(tmp_path: Path) -> None:
    rows = [
        task({"text": "fine"}, [choice("good")], [choice("good")], [choice("bad")]),
        task({"text": "so so"}, [choice("good")], [choice("bad")]),
        task({"text": "unseen"}),
        task({"text": "skipped"}, []),
        task({"text": "one alone"}, [choice("bad")]),
    ]
    annotations = rows[4]["annotations"]
    assert isinstance(annotations, list)
    annotations.append({**annotations[0], "completed_by": 2, "was_cancelled": True, "result": [choice("good")]})
    examples, ledger = read(tmp_path, rows, "text_class")
    assert [(each.text, each.labels) for each in examples] == [("fine", ("good",)), ("one alone", ("bad",))]
    assert ledger.totals() == {"dropped: annotators_tied": 1, "dropped: not_annotated": 2, "kept": 2}
    assert ledger.changed() == {"outvoted": (1, 1)}


def test_the_marked_truth_decides_alone(tmp_path: Path) -> None:
    row = task({"text": "fine"}, [choice("good")], [choice("bad")], [choice("bad")])
    row["annotations"][0]["ground_truth"] = True  # type: ignore[index]
    examples, _ = read(tmp_path, [row], "text_class")
    assert examples[0].labels == ("good",)


def test_several_classes_are_decided_one_by_one(tmp_path: Path) -> None:
    rows = [
        task({"text": "x"}, [choice("a", "b")], [choice("a", "c")], [choice("a", "b")]),
        task({"text": "y"}, [choice("a", "b")], [choice("a")]),
    ]
    examples, ledger = read(tmp_path, rows, "text_class")
    assert [each.labels for each in examples] == [("a", "b")]
    assert ledger.totals()["dropped: annotators_tied"] == 1  # one of two named b


def test_ratings_are_their_median(tmp_path: Path) -> None:
    def stars(number: float) -> list[dict[str, object]]:
        return [result("rating", {"rating": number}, "stars")]

    rows = [
        task({"text": "x"}, stars(1), stars(4), stars(5)),
        task({"text": "y"}, stars(3), stars(4)),
        task({"text": "z"}, stars(2), stars(2)),
    ]
    examples, ledger = read(tmp_path, rows, "text_class")
    assert [each.labels for each in examples] == [("4",), ("2",)]
    assert ledger.totals()["dropped: annotators_tied"] == 1


def test_marked_places_become_tags(tmp_path: Path) -> None:
    text = "Ada Lovelace met 王小明 in Turin"
    rows = [
        task(
            {"text": text},
            places((0, 12, "PER"), (17, 20, "PER"), (24, 29, "LOC"), text=text),
            places((0, 12, "PER"), (17, 20, "PER"), text=text),
            places((0, 3, "PER"), (17, 20, "PER"), (24, 29, "LOC"), text=text),
        ),
        task({"text": "nobody here"}, [], []),
    ]
    examples, ledger = read(tmp_path, rows, "token_class")
    assert examples[0].tokens == ("Ada", "Lovelace", "met", "王", "小", "明", "in", "Turin")
    assert examples[0].labels == ("B-PER", "I-PER", "O", "B-PER", "I-PER", "I-PER", "O", "B-LOC")
    assert examples[1].labels == ("O", "O")  # both finished it and marked nothing
    assert ledger.changed() == {"outvoted": (1, 2)}


def test_places_that_count_utf16_units_are_told_by_their_text(tmp_path: Path) -> None:
    text = "😀 Ada came"
    marked = places((3, 6, "PER"))
    marked[0]["value"]["text"] = "Ada"  # type: ignore[index]
    examples, _ = read(tmp_path, [task({"text": text}, marked)], "token_class")
    assert examples[0].labels == ("O", "B-PER", "O")
    marked[0]["value"]["text"] = "Bob"  # type: ignore[index]
    with pytest.raises(TunesmithError) as refused:
        read(tmp_path, [task({"text": text}, marked)], "token_class")
    assert refused.value.code == "data.no_question"


def test_pairwise_votes_become_preferences(tmp_path: Path) -> None:
    def vote(side: str) -> list[dict[str, object]]:
        return [result("pairwise", {"selected": side}, "better")]

    data: dict[str, object] = {"prompt": "Capital of Peru?", "answer_a": "Lima.", "answer_b": "Quito."}
    rows = [task(data, vote("left"), vote("left"), vote("right")), task(data, vote("left"), vote("right"))]
    examples, ledger = read(tmp_path, rows, "preference")
    assert [each.messages[0].content for each in examples] == ["Capital of Peru?"]
    assert (examples[0].chosen[0].content, examples[0].rejected[0].content) == ("Lima.", "Quito.")
    assert ledger.totals() == {"dropped: annotators_tied": 1, "kept": 1}
    odd: dict[str, object] = {"ask": "Capital?", "x": "Quito.", "y": "Lima."}
    columns = {"left": "data.x", "right": "data.y", "prompt": "data.ask"}
    examples, _ = read(tmp_path, [task(odd, vote("right"))], "preference", columns=columns)
    assert examples[0].chosen[0].content == "Lima."


def test_the_recipe_names_the_question_where_several_fit(tmp_path: Path) -> None:
    rows = [task({"review": "fine"}, [choice("good"), choice("room", question="topic")])]
    examples, _ = read(tmp_path, rows, "text_class", question="topic", columns={"text": "data.review"})
    assert (examples[0].text, examples[0].labels) == ("fine", ("room",))
    for source, wanted, code in (
        ({}, "text_class", "data.several_questions"),
        ({"question": "tone"}, "text_class", "data.unknown_question"),
        ({}, "preference", "data.no_question"),
        ({}, "text", "data.wrong_kind"),
        ({}, "chat", "data.no_question"),
        ({"columns": {"text": "data.none"}}, "text_class", "data.missing_columns"),
    ):
        with pytest.raises(TunesmithError) as refused:
            read(tmp_path, rows, wanted, **source)  # type: ignore[arg-type]
        assert refused.value.code == code
    (tmp_path / "plain.jsonl").write_text('{"text": "a", "label": "b"}\n', "utf-8")
    spec = SourceSpec(path="plain.jsonl", question="topic")
    with pytest.raises(TunesmithError) as refused:
        read_source(spec, "train", tmp_path, Reading("text_class", None, 1), Ledger())
    assert refused.value.code == "data.question_of_nobody"


def record(fields: dict[str, object], **responses: list[object]) -> dict[str, object]:
    said = {
        question: [{"value": value, "user_id": f"user-{who}"} for who, value in enumerate(values, 1)]
        for question, values in responses.items()
    }
    return {"id": "r1", "fields": fields, "metadata": {}, "suggestions": {}, "responses": said, "vectors": {}}


def test_records_of_argilla(tmp_path: Path) -> None:
    rows = [record({"text": "fine"}, tone=["good", "good", "bad"], stars=[4, 5, 5])]
    examples, ledger = read(tmp_path, rows, "text_class", question="tone")
    assert examples[0].labels == ("good",) and ledger.changed() == {"outvoted": (1, 1)}
    assert read(tmp_path, rows, "text_class", question="stars")[0][0].labels == ("5",)
    marked = [{"start": 0, "end": 3, "label": "PER"}]
    examples, _ = read(tmp_path, [record({"text": "Ada came"}, ner=[marked, marked, []])], "token_class")
    assert examples[0].labels == ("B-PER", "O")
    fields: dict[str, object] = {"prompt": "Hi", "response1": "Hello.", "response2": "Go."}
    for votes in (["response2", "response1", "response2"], [["response2", "response1"]]):
        examples, _ = read(tmp_path, [record(fields, better=list(votes))], "preference")
        assert (examples[0].chosen[0].content, examples[0].rejected[0].content) == ("Go.", "Hello.")


def test_flat_records_of_argilla_and_their_drafts(tmp_path: Path) -> None:
    row = {
        "id": "r1", "status": "completed", "_server_id": None, "text": "fine",
        "tone.responses": ["good", "bad", "bad"], "tone.responses.users": ["u1", "u2", "u3"],
        "tone.responses.status": ["submitted", "draft", "discarded"],
        "tone.suggestion": "bad", "tone.suggestion.score": 0.7, "tone.suggestion.agent": "model",
    }  # fmt: skip
    examples, _ = read(tmp_path, [row], "text_class")
    assert (examples[0].text, examples[0].labels) == ("fine", ("good",))
    assert read_record(row).suggestions["tone"] == Suggestion(Answer("classes", ("bad",)), "model", 0.7)
    pl.DataFrame([row]).write_parquet(tmp_path / "hub.parquet")  # as a hub keeps it
    items, unread = load_items(tmp_path / "hub.parquet")
    assert unread == 0 and items[0].votes == {"tone": {"u1": Answer("classes", ("good",))}}


ITEMS = [
    Item(
        "1",
        {"text": "Ada came to 都灵"},
        {
            "tone": {"3": Answer("classes", ("good",)), "12": Answer("classes", ("bad",))},
            "topics": {"3": Answer("classes", ("a", "b")), "12": Answer("classes", ("a",))},
            "stars": {"3": Answer("rating", ("4",)), "12": Answer("rating", ("2",))},
            "ner": {
                "3": Answer("spans", spans=(Span(0, 3, "PER"), Span(12, 14, "LOC"))),
                "12": Answer("spans", spans=(Span(0, 3, "PER"),)),
            },
        },
        {"tone": Suggestion(Answer("classes", ("good",)), "m1", 0.25)},
        ("3", "12"),
    ),
]
VOTES = [
    Item(
        str(number),
        {"prompt": "Hi", "answer_a": "Hello.", "answer_b": "Go."},
        {"better": {"ann@example.org": Answer("preferred", order), "u-7": Answer("preferred", order[::-1])}},
        annotators=("ann@example.org", "u-7"),
    )
    for number, order in enumerate((("answer_a", "answer_b"), ("answer_b", "answer_a")))
]


@pytest.mark.parametrize("items", [ITEMS, VOTES], ids=["labels", "votes"])
@pytest.mark.parametrize("tool", ["label_studio", "argilla"])
def test_there_and_back_nothing_of_anybody_is_lost(items: list[Item], tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text(written(items, tool).content, "utf-8")
    found, unread = load_items(tmp_path / "out.json")
    assert unread == 0 and found == items


def test_one_tool_to_the_other(tmp_path: Path) -> None:
    rows = [task({"text": "fine"}, [choice("good")], [choice("bad")])]
    (tmp_path / "ls.json").write_text(json.dumps(rows), "utf-8")
    (tmp_path / "argilla.json").write_text(written(load_items(tmp_path / "ls.json")[0], "argilla").content, "utf-8")
    assert load_items(tmp_path / "argilla.json")[0][0].votes == read_task(rows[0]).votes


def test_rows_are_given_to_people_with_what_they_say_as_a_suggestion(tmp_path: Path) -> None:
    examples = [
        Example(0, "text_class", Origin("a", 0), text="fine", labels=("good",)),
        Example(1, "token_class", Origin("b", 0), tokens=("Ada", "Lovelace", "came"), labels=("B-PER", "I-PER", "O")),
        Example(2, "token_class", Origin("b", 1), tokens=tuple("王明来"), labels=("B-PER", "E-PER", "S-X")),
    ]
    items = [item_of(each) for each in examples]
    assert items[0].suggestions["label"].answer.names == ("good",)
    assert items[1].fields == {"text": "Ada Lovelace came"}
    assert items[1].suggestions["label"].answer.spans == (Span(0, 12, "PER"),)
    assert items[2].suggestions["label"].answer.spans == (Span(0, 2, "PER"), Span(2, 3, "X"))
    given = written(items[:1], "label_studio")
    made = json.loads(given.content)[0]
    assert made["predictions"][0]["result"][0]["value"] == {"choices": ["good"]} and made["annotations"] == []
    assert '<Choices name="label" toName="text" choice="single">' in given.interface


def test_which_of_two_answers_is_better_is_not_told_by_its_side() -> None:
    def pair(index: int) -> Item:
        turns = [(Message("assistant", name),) for name in ("good", "bad")]
        asked = (Message("user", "Hi"),)
        return item_of(Example(index, "preference", Origin("p", index), asked, chosen=turns[0], rejected=turns[1]))

    items = [pair(index) for index in range(400)]
    left = sum(item.fields[LEFT] == "good" for item in items)
    assert 160 < left < 240 and {str(item.fields[RIGHT]) for item in items} == {"good", "bad"}
    assert all(not item.suggestions and not item.votes for item in items)
    assert f'toName="{LEFT},{RIGHT}"' in written(items, "label_studio").interface
    with pytest.raises(RowDefect, match="not_for_people"):
        item_of(Example(0, "kto", Origin("p", 0), (Message("user", "Hi"),), label=True))


def test_nobody_decides_what_nobody_said() -> None:
    with pytest.raises(RowDefect, match="not_annotated"):
        decided([])
    even = [Answer("preferred", names) for names in (("a", "b"), ("b", "a"))]
    with pytest.raises(RowDefect, match="annotators_tied"):
        decided(even)
    assert decided([*even, even[0]]) == (even[0], 1)


def test_pairs_are_told_by_their_names() -> None:
    assert pair_of(["prompt", "answer_a", "answer_b"]) == ("answer_a", "answer_b")
    assert pair_of(["text2", "text1", "q"]) == ("text1", "text2")
    assert pair_of(["right", "left"]) == ("left", "right")
    assert pair_of(["data", "text"]) is None


def golden(name: str, wanted: RowKind, **source: object) -> list[Example]:
    spec = SourceSpec.model_validate({"path": name, **source})
    frame, _ = read_source(spec, "train", GOLDEN, Reading(wanted, None, 1), Ledger())
    return to_examples(frame)


@pytest.mark.parametrize("name", ["argilla.json", "argilla-flat.json"])
def test_what_argilla_itself_writes(name: str) -> None:
    """Records made and written by argilla 2.8.0: `records.to_json`, and its flat form."""
    assert [each.labels for each in golden(name, "text_class", question="topics")] == [("people", "travel")]
    assert [each.labels for each in golden(name, "text_class", question="stars")] == [("4",)]
    assert golden(name, "token_class")[0].labels == ("B-PER", "I-PER", "O", "O", "B-LOC")
    # The nested form has no status: there nobody can tell that an answer was discarded.
    tones = {"argilla.json": [("good",)], "argilla-flat.json": [("good",), ("good",)]}
    assert [each.labels for each in golden(name, "text_class", question="tone")] == tones[name]


def test_votes_that_argilla_itself_writes() -> None:
    for question in ("better", "order"):
        (found,) = golden("argilla-votes.json", "preference", question=question)
        assert (found.chosen[0].content, found.rejected[0].content) == ("Lima.", "Quito.")


def test_what_label_studios_own_library_writes() -> None:
    """An annotation made by the label interface of label-studio-sdk 2.1.2."""
    assert golden("label-studio.json", "text_class", question="tone")[0].labels == ("good",)
    assert golden("label-studio.json", "text_class", question="stars")[0].labels == ("4",)
    assert golden("label-studio.json", "token_class")[0].labels == ("B-PER", "I-PER", "O", "O", "O")
    assert golden("label-studio.json", "preference")[0].chosen[0].content == "Lima."


@pytest.mark.parametrize("value", [10**400, float("nan"), True, "4", None])
def test_a_rating_that_is_no_number_is_a_fault_of_its_row(value: object, tmp_path: Path) -> None:
    good = task({"text": "x"}, [result("rating", {"rating": 3}, "stars")])
    odd = task({"text": "y"}, [result("rating", {"rating": value}, "stars")])
    examples, ledger = read(tmp_path, [good, odd], "text_class")
    assert [each.labels for each in examples] == [("3",)]
    assert ledger.totals() == {"dropped: bad_annotation": 1, "kept": 1}


def test_an_interface_shows_what_can_be_shown() -> None:
    turns = [{"role": "user", "content": "Hi"}]
    fields: dict[str, object] = {"chat": turns, "a<b": "x", "size": 3, "answer_a": "m", "answer_b": "n"}
    item = Item("1", fields, {"better": {"1": Answer("preferred", ("answer_a", "answer_b"))}}, annotators=("1",))
    lines = written([item], "label_studio").interface.splitlines()
    assert '  <Paragraphs name="chat" value="$chat" layout="dialogue" nameKey="role" textKey="content"/>' in lines
    assert '  <Text name="a&lt;b" value="$a&lt;b"/>' in lines and not any("size" in line for line in lines)
    unsaid = Item("2", {"a": "x", "b": "y"}, {"tone": {"1": Answer("classes", ("good",))}})
    assert written([unsaid], "label_studio").left_out == 1  # nothing tells which of two texts was labelled
