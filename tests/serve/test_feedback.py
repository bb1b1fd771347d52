"""Feedback over HTTP, found again in the store."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import openai
import pytest

from tunesmith.store.database import open_database, sqlite_url
from tunesmith.store.feedback import FeedbackStore

LIKE: dict[str, object] = {
    "model": "tiny",
    "kind": "like",
    "messages": [{"role": "user", "content": "你好"}],
    "answer": "hello",
    "consent": True,
    "user": "ada@example.com",
}


def test_a_like_and_a_correction_are_stored(client: openai.OpenAI, database: Path) -> None:
    correction = {**LIKE, "kind": "correction", "corrected": "您好", "consent": False}
    ids = [client.post("/feedback", body=sent, cast_to=dict)["id"] for sent in (LIKE, correction)]
    rows = {row.id: row.feedback for row in FeedbackStore(open_database(sqlite_url(database))).rows()}
    liked, corrected = (rows[each] for each in ids)
    assert (liked.kind, liked.answer, liked.consent) == ("like", "hello", True)
    assert liked.messages == ({"role": "user", "content": "你好"},)
    assert (corrected.corrected, corrected.consent) == ("您好", False)
    assert liked.user_hash == corrected.user_hash
    assert len(liked.user_hash) == 64 and "ada" not in liked.user_hash


def test_a_repeated_request_stores_once(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once-1"}
    first, again = (http.post("/v1/feedback", json=LIKE, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    other = http.post("/v1/feedback", json={**LIKE, "answer": "other"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "store.key_reused")


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "shrug"},
        {"kind": "correction"},
        {"kind": "comment", "comment": " "},
        {"kind": "choice"},
        {"messages": []},
        {"answer": None},
        {"consent": "yes"},
        {"extra": 1},
    ],
)
def test_senseless_feedback_is_refused(http: httpx.Client, changes: dict[str, object]) -> None:
    answer = http.post("/v1/feedback", json={**LIKE, **changes})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "serve.bad_request")


@pytest.mark.parametrize(
    "changes",
    [
        {"comment": "a\0b"},
        {"messages": [{"role": "user", "content": "\\\0"}]},
        {"messages": [{"role": "user", "content": "a", "annotations": [float("nan")]}]},
    ],
)
def test_what_not_every_database_holds_is_refused(http: httpx.Client, changes: dict[str, object]) -> None:
    answer = http.post("/v1/feedback", content=json.dumps({**LIKE, **changes}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "store.unstorable")


def test_feedback_for_another_model_and_a_long_key(http: httpx.Client) -> None:
    assert http.post("/v1/feedback", json={**LIKE, "model": "other"}).status_code == 404
    assert http.post("/v1/feedback", json=LIKE, headers={"Idempotency-Key": "k" * 300}).status_code == 400
