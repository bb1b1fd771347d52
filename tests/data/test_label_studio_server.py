"""Rows to a running Label Studio and back: what we write is imported, answered by its API, exported, and read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from label_studio_server import MISSING, VARIABLE, LabelStudio, label_studio

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message, Origin, RowKind
from tunesmith.data.annotations.give import LEFT, RIGHT, item_of, written
from tunesmith.data.annotations.load import load_items
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.table import to_examples
from tunesmith.recipe.specs.sources import SourceSpec

pytestmark = [
    pytest.mark.skipif(VARIABLE not in os.environ, reason=MISSING),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with label_studio(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


def text(row: int, words: str, *labels: str) -> Example:
    return Example(row, "text_class", Origin("rows", row), text=words, labels=labels)


def given(server: LabelStudio, examples: list[Example]) -> tuple[int, list[dict[str, object]]]:
    """Our file and our interface in a new project, whose predictions the server has checked against the interface."""
    file = written([item_of(each) for each in examples], "label_studio")
    assert file.left_out == 0
    project = server.project(file.interface)
    return project, server.give(project, json.loads(file.content))


def answer(kind: str, question: str, about: str, **value: object) -> dict[str, object]:
    return {"type": kind, "from_name": question, "to_name": about, "value": value}


def learned(server: LabelStudio, project: int, folder: Path, wanted: RowKind) -> list[Example]:
    """The rows of what the project exports now."""
    (folder / "export.json").write_text(json.dumps(server.export(project)), "utf-8")
    frame, report = read_source(
        SourceSpec(path="export.json"), "train", folder, Reading(wanted, None, 1), ledger := Ledger()
    )
    assert report.files[0].layout == "label_studio" and not [name for name in ledger.totals() if "bad" in name]
    return to_examples(frame)


def test_classes(server: LabelStudio, tmp_path: Path) -> None:
    project, tasks = given(server, [text(0, "很好 😀 fine", "good"), text(1, "dull", "bad")])
    assert [len(list(task["predictions"])) for task in tasks] == [1, 1]  # type: ignore[call-overload]
    server.annotate(tasks[0]["id"], [answer("choices", "label", "text", choices=["bad"])])
    server.annotate(tasks[1]["id"], [answer("choices", "label", "text", choices=["bad"])])
    found = learned(server, project, tmp_path, "text_class")
    assert [(each.text, each.labels) for each in found] == [("很好 😀 fine", ("bad",)), ("dull", ("bad",))]
    items, unread = load_items(tmp_path / "export.json")
    assert unread == 0 and [item.suggestions["label"].answer.names for item in items] == [("good",), ("bad",)]


def test_places(server: LabelStudio, tmp_path: Path) -> None:
    marked = Example(0, "token_class", Origin("rows", 0), tokens=("😀", "Ada", "came"), labels=("O", "B-PER", "O"))
    project, (task,) = given(server, [marked])
    place = {"start": 2, "end": 5, "text": "Ada", "labels": ["PER"]}
    server.annotate(task["id"], [answer("labels", "label", "text", **place)])
    (found,) = learned(server, project, tmp_path, "token_class")
    assert (found.tokens, found.labels) == (marked.tokens, marked.labels)


def turns(*said: str) -> tuple[Message, ...]:
    return tuple(Message("user" if place % 2 == 0 else "assistant", words) for place, words in enumerate(said))


def test_votes(server: LabelStudio, tmp_path: Path) -> None:
    pair = Example(
        0, "preference", Origin("rows", 0), turns("Capital of Peru?"),
        chosen=(Message("assistant", "Lima."),), rejected=(Message("assistant", "Quito."),),
    )  # fmt: skip
    project, (task,) = given(server, [pair])
    data = task["data"]
    assert isinstance(data, dict)
    side = "left" if data[LEFT] == "Lima." else "right"
    server.annotate(task["id"], [answer("pairwise", "preference", f"{LEFT},{RIGHT}", selected=side)])
    (found,) = learned(server, project, tmp_path, "preference")
    assert (found.messages, found.chosen, found.rejected) == (pair.messages, pair.chosen, pair.rejected)


def test_corrected_answers(server: LabelStudio, tmp_path: Path) -> None:
    rows = [
        Example(0, "chat", Origin("rows", 0), turns("Capital of Peru?", "Quito.")),
        Example(1, "chat", Origin("rows", 1), turns("Hi", "Hello.", "And in Chinese?", "Ni hao")),
        Example(2, "chat", Origin("rows", 2), turns("Left", "open")),
    ]
    project, tasks = given(server, rows)
    for task, words in zip(tasks, ("Lima.", "你好！"), strict=False):
        server.annotate(task["id"], [answer("textarea", "correction", "answer", text=[words])])
    first, second = learned(server, project, tmp_path, "chat")
    assert first.messages == turns("Capital of Peru?", "Lima.")
    assert second.messages == turns("Hi", "Hello.", "And in Chinese?", "你好！")


def test_likes(server: LabelStudio, tmp_path: Path) -> None:
    rows = [
        Example(number, "kto", Origin("rows", number), turns("Capital of Peru?", words), label=label)
        for number, (words, label) in enumerate((("Lima.", True), ("Quito.", False)))
    ]
    project, tasks = given(server, rows)
    for task, choice in zip(tasks, ("liked", "disliked"), strict=True):
        server.annotate(task["id"], [answer("choices", "label", "answer", choices=[choice])])
    found = learned(server, project, tmp_path, "kto")
    assert [(each.messages, each.label) for each in found] == [(each.messages, each.label) for each in rows]


def test_answers_that_go_back_in_are_those_that_came_out(server: LabelStudio, tmp_path: Path) -> None:
    """An export, written again by us, is imported with its annotations into another project."""
    project, (task,) = given(server, [text(0, "fine", "good")])
    server.annotate(task["id"], [answer("choices", "label", "text", choices=["good"])])
    learned(server, project, tmp_path, "text_class")
    items, _ = load_items(tmp_path / "export.json")
    file = written(items, "label_studio")
    other = server.project(file.interface)
    server.give(other, json.loads(file.content))
    (found,) = learned(server, other, tmp_path, "text_class")
    assert found.labels == ("good",)
