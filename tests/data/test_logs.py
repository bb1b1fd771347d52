"""Logs of requests, feedback of our own service, and the terms that rows are held against."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, RowKind
from tunesmith.data.collect.fetch import collect
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.data.table import to_examples
from tunesmith.recipe.specs.sources import SourceSpec, TermsSpec
from tunesmith.store.database import open_database, sqlite_url
from tunesmith.store.feedback import Feedback, FeedbackStore

ASKED = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital?"}],
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


def said(content: str | None, finish: str = "stop", **more: object) -> dict[str, object]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **more}, "finish_reason": finish}
    return {"id": "x", "choices": [choice, {"index": 1, "message": {"role": "assistant", "content": "other"}}]}


def read(folder: Path, rows: list[object], wanted: RowKind = "chat", **source: object) -> tuple[list[Example], Ledger]:
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    ledger = Ledger()
    spec = SourceSpec.model_validate({"path": "log.jsonl", **source})
    frame, _ = read_source(spec, "train", folder, Reading(wanted, None, 1), ledger)
    return to_examples(frame), ledger


def test_requests_with_their_responses(tmp_path: Path) -> None:
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    rows: list[object] = [
        {"request": ASKED, "response": said("Lima.")},
        {"custom_id": "1", "request": {"body": ASKED}, "response": {"status_code": 200, "body": said("Lima.")}},
        {"request": json.dumps(ASKED), "response": json.dumps(said("Lima."))},
        {**ASKED, **said("Lima.")},
        {"request": {**ASKED, "tools": TOOLS}, "response": said(None, "tool_calls", tool_calls=call)},
        {"request": ASKED, "response": {"status_code": 429, "body": {}}},
        {"request": ASKED, "response": {"error": {"message": "no"}}},
        {"request": ASKED, "response": said("Li", "length")},
        {"request": ASKED, "response": said("Li", "content_filter")},
        {"request": ASKED, "response": {"choices": []}},
        {"request": {"prompt": "x"}, "response": said("Lima.")},
    ]
    examples, ledger = read(tmp_path, rows)
    for example in examples[:4]:
        assert [(turn.role, turn.content) for turn in example.messages] == [
            ("system", "Be brief."), ("user", "Capital?"), ("assistant", "Lima."),
        ]  # fmt: skip
    assert examples[4].messages[-1].tool_calls[0].name == "f" and json.loads(examples[4].tools) == TOOLS
    assert [entry.reason for entry in ledger.entries()[5:]] == [
        "request_failed", "request_failed", "answer_not_whole", "answer_not_whole", "no_assistant", "no_messages",
    ]  # fmt: skip


@pytest.fixture
def feedback_database(tmp_path: Path) -> Path:
    """What people said of answers, as the service's own store keeps it."""
    path = tmp_path / "service.db"
    engine = open_database(sqlite_url(path))
    store = FeedbackStore(engine)
    asked = ({"role": "user", "content": "Capital?"},)
    store.add(Feedback("m", "like", asked, "Lima.", consent=True))
    store.add(Feedback("m", "dislike", asked, "Quito.", consent=True))
    store.add(Feedback("m", "correction", asked, "Quito.", corrected="Lima!", consent=True))
    store.add(Feedback("m", "choice", asked, "Lima.", rejected="Quito.", consent=True))
    store.add(Feedback("m", "comment", asked, "Lima.", comment="nice", consent=True))
    store.add(Feedback("m", "like", asked, "Cusco.", consent=False))
    engine.dispose()
    return path


@pytest.mark.parametrize(
    ("wanted", "found", "other"),
    [
        ("chat", [("Lima.",), ("Lima!",)], 3),
        ("preference", [("Lima!", "Quito."), ("Lima.", "Quito.")], 3),
        ("kto", [("Lima.", True), ("Quito.", False)], 3),
    ],
)
def test_feedback_of_the_service(
    tmp_path: Path, feedback_database: Path, monkeypatch: pytest.MonkeyPatch, wanted: RowKind, found: object, other: int
) -> None:
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    source = SourceSpec(query="select * from feedback order by time", database=feedback_database.name, name="feedback")
    collect([source], tmp_path, offline=False)
    ledger = Ledger()
    frame, report = read_source(source, "train", tmp_path, Reading(wanted, None, 1), ledger)
    examples = to_examples(frame)
    got: list[tuple[object, ...]] = []
    for each in examples:
        assert each.messages[0].content == "Capital?"
        if wanted == "preference":
            got.append((each.chosen[0].content, each.rejected[0].content))
        else:
            got.append((each.messages[-1].content, *([each.label] if wanted == "kto" else [])))
    assert got == found and report.files[0].layout == "feedback"
    assert ledger.totals() == {"dropped: no_consent": 1, "dropped: other_feedback": other, "kept": 2}


def test_terms_drop_what_nobody_agreed_to_and_what_is_too_old(tmp_path: Path) -> None:
    def row(**more: object) -> dict[str, object]:
        return {"prompt": "a", "completion": "b", **more}

    new = "2026-02-01T00:00:00+00:00"
    cases: list[tuple[dict[str, object], str]] = [
        (row(agreed=True, at=new), ""),
        (row(agreed="Yes", at="2026-02-01"), ""),
        (row(agreed=1, at=1769904000), ""),  # 2026-02-01
        (row(agreed="1", at="1769904000.5"), ""),
        (row(agreed=False, at=new), "no_consent"),
        (row(agreed="no", at=new), "no_consent"),
        (row(agreed=None, at=new), "no_consent"),
        (row(at=new), "no_consent"),
        (row(agreed=True, at="2026-01-31T23:59:59Z"), "too_old"),
        (row(agreed=True, at="2026-02-01T01:00:00+08:00"), "too_old"),
        (row(agreed=True, at="yesterday"), "too_old"),
        (row(agreed=True, at=1e300), "too_old"),
        (row(agreed=True, at=True), "too_old"),
        (row(agreed=True), "too_old"),
    ]
    terms = {"consent": "agreed", "time": "at", "since": "2026-02-01"}
    examples, ledger = read(tmp_path, [case for case, _ in cases], terms=terms)
    assert [entry.reason for entry in ledger.entries()] == [reason for _, reason in cases]
    assert len(examples) == 4


def test_retention_in_days_leaves_out_what_is_past(tmp_path: Path) -> None:
    def at(days: int) -> str:
        return (datetime.now(UTC) - timedelta(days=days)).isoformat()

    dated: list[object] = [
        {"prompt": f"{days}", "completion": "b", "at": at(days)} for days in (0, 29, 30, 31, 400, -3)
    ]
    terms = {"time": "at", "retention_days": 30}
    examples, ledger = read(tmp_path, dated, terms=terms)
    assert [example.messages[0].content for example in examples] == ["0", "29", "30", "-3"]
    assert ledger.totals() == {"dropped: retention_past": 2, "kept": 4}
    mixed = [*dated, {"prompt": "none", "completion": "b"}, {"prompt": "odd", "completion": "b", "at": "soon"}]
    with pytest.raises(TunesmithError) as caught:
        read(tmp_path, mixed, terms=terms)
    assert caught.value.code == "data.undated_row" and caught.value.facts == {"column": "at", "days": 30}
    dropped = read(tmp_path, mixed, terms={**terms, "undated": "drop"})[1]
    assert dropped.totals() == {"dropped: no_date": 2, "dropped: retention_past": 2, "kept": 4}
    assert read(tmp_path, mixed, terms={**terms, "undated": "keep"})[1].totals()["kept"] == 6
    both = {**terms, "since": at(10)[:10]}
    assert read(tmp_path, mixed, terms=both)[1].totals() == {"dropped: too_old": 6, "kept": 2}


@pytest.mark.parametrize("more", [{"undated": "keep"}, {"undated": "drop", "since": "2026-02-01", "retention_days": 3}])
def test_a_word_on_undated_rows_that_could_do_nothing_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="terms"):
        TermsSpec.model_validate({"consent": "agreed", "time": "at", **more})


@pytest.mark.parametrize(
    "wrong", [{}, {"retention_days": 3}, {"time": "at"}, {"since": "2026-02-01"}, {"consent": "a", "time": "at"}]
)
def test_terms_that_say_nothing_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="terms"):
        TermsSpec.model_validate(wrong)
    with pytest.raises(ValidationError, match="terms_day"):
        TermsSpec(time="at", since="2026-02-30")
