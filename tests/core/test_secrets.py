"""Secrets are hidden by their form and by their value, in every word that leaves the program; ordinary words stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Event, Events
from tunesmith.core.secrets import first_line, holds_secret, without_secrets
from tunesmith.data.notes import Note
from tunesmith.recipe.specs.sources import SourceSpec

PLANTED = "pLanted7Zq"
SIGNATURE = f"{PLANTED}%2Bw3Yb%3D"
FORMED = [
    f"postgresql://reader:{PLANTED}@db.example/faq",
    f"postgresql+psycopg://reader:a/{PLANTED}@db.example/faq",
    f"mysql://:{PLANTED}@127.0.0.1:3306/faq",
    f"https://user:{PLANTED}@hub.example/acme/model",
    f"https://{PLANTED}@github.example/acme/model.git",
    f"s3://key:{PLANTED}@bucket/rows.jsonl",
    f"s3://bucket/rows.jsonl?X-Amz-Credential=me&X-Amz-Signature={SIGNATURE}",
    f"https://box.blob.core.windows.net/rows/a.jsonl?sv=2024-11-04&se=2026&sig={SIGNATURE}",
    f"az://rows/a.jsonl?sig={SIGNATURE}",
    f"https://storage.googleapis.com/rows/a?X-Goog-Signature={PLANTED}0af",
    f"https://rows.oss.example/a?Expires=1&OSSAccessKeyId=me&Signature={SIGNATURE}",
    f"https://hub.example/file?token={PLANTED}",
    f"DefaultEndpointsProtocol=https;AccountName=box;AccountKey={PLANTED}+Yw/3Q==;EndpointSuffix=core.windows.net",
    "Endpoint=sb://x;SharedAccessKey=" + PLANTED,
    f"AKIA{'PLANTED7ZQPLANTE'}",
    f"hf_{PLANTED}0123456789abcdefghijkl",
    f"ghp_{PLANTED}0123456789abcdefghijklmnopqrst",
    f"sk-proj-{PLANTED}-{'a1B2c3D4e5' * 3}",
    f"ts-{PLANTED}{'x' * 33}",
    f"Authorization: Bearer {PLANTED}0123456789",
]
ORDINARY = [
    "hf://datasets/acme/faq@main/train.jsonl",
    "modelscope://acme/faq@v1.0",
    "s3://bucket/folder/rows.jsonl",
    "http://127.0.0.1:8000/v1/files@2",
    "https://example.org/page?query=token&page=2",
    "postgresql+psycopg://user@host/database",
    "postgresql://user:***@host/faq and https://***@host and mysql://u:$PASSWORD@host",
    "data/sk-learn-of-last-winter-and-this.jsonl",
    "select asked from faq where token = 12 and key = 'a'",
    "sha256 " + "0af3" * 16,
    "someone@example.org asked: 10:30@noon?",
    "key_variable: OPENAI_API_KEY",
]


@pytest.mark.parametrize("text", FORMED)
def test_a_secret_is_known_by_its_form(text: str) -> None:
    assert holds_secret(text)
    hidden = without_secrets(f'could not read "{text}" (line 3)')
    assert "***" in hidden and hidden.startswith("could not read") and hidden.endswith("(line 3)")
    assert PLANTED not in hidden and "PLANTED" not in hidden and "w3Yb" not in hidden


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_words_stay(text: str) -> None:
    assert not holds_secret(text) and without_secrets(text) == text


def test_a_secret_is_known_by_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "an odd one: " + PLANTED)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalr/" + PLANTED)
    monkeypatch.setenv("FAQ_URL", "postgresql://reader:p%40ss" + PLANTED + "@db/faq")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "whatever")
    said = f"an odd one: {PLANTED}; wJalr/{PLANTED}; p%40ss{PLANTED}; p@ss{PLANTED}; whatever"
    assert without_secrets(said) == "***; ***; ***; ***; whatever"


@pytest.mark.parametrize("words", [f"password={PLANTED}", f'"secret_key": "{PLANTED}"', f"api-key: {PLANTED}"])
def test_what_is_named_a_secret_is_hidden(words: str) -> None:
    assert PLANTED not in without_secrets(words) and "***" in without_secrets(words)
    assert without_secrets("database password: env:NAME") == "database password: env:NAME"


def test_every_way_out(tmp_path: Path) -> None:
    """Errors, what is told of a library's, events on the disk and for listeners, notes, addresses of sources."""
    for text in FORMED:
        error = TunesmithError("data.fetch_failed", source=text, reason=text)
        heard: list[Event] = []
        Events(tmp_path / "metrics.jsonl", (heard.append,)).emit("alarm", code="x", reason=text)
        note = Note("data.read_file", {"path": text})
        source = SourceSpec(path=text)
        said = [str(error), str(error.facts), first_line(ValueError(text)), str(heard), str(note), source.title]
        assert all(PLANTED not in each and "PLANTED" not in each for each in said), text
    lines = (tmp_path / "metrics.jsonl").read_text("utf-8")
    assert PLANTED not in lines and len([json.loads(line) for line in lines.splitlines()]) == len(FORMED)
