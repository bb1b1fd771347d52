"""What goes wrong inside a server, and clients who do not wait: it is said, and nothing goes on for nobody."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch

from tunesmith.core.events import Event, Events
from tunesmith.models.generate import Decoder, Progress
from tunesmith.recipe.specs.serve import ServeSpec
from tunesmith.serve import answers
from tunesmith.serve.engine import Engine
from tunesmith.serve.server import open_service
from tunesmith.store.database import sqlite_url

KEY = "a-stated-key-for-tests-0123456789"
CHAT = "/v1/chat/completions"
BODY: dict[str, object] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


@dataclass
class Watched:
    """A server's client, and the alarms that the server gave."""

    http: httpx.Client
    alarms: list[str] = field(default_factory=list)

    def note(self, event: Event) -> None:
        if event.kind == "alarm":
            self.alarms.append(str(event.values["code"]))

    def metric(self, name: str) -> float:
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def wait(self, name: str, value: float, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)} and not {value}"
            time.sleep(0.02)


@pytest.fixture
def watched(model_folder: Path, tmp_path: Path) -> Iterator[Watched]:
    found = Watched(httpx.Client(headers={"Authorization": f"Bearer {KEY}"}, timeout=10))
    events = Events(listeners=(found.note,))
    spec = ServeSpec(port=0, max_batch=4, max_queue=12, max_new_tokens=200)
    server = open_service(
        model_folder, spec, sqlite_url(tmp_path / "s.db"), events, KEY, name="tiny", dtype=torch.float32
    )
    found.http.base_url = httpx.URL(server.url.removesuffix("/v1"))
    server.start()
    with found.http:
        yield found
    server.stop()


def test_streams_that_nobody_reads_are_given_up(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client leaves before the first byte of its answers, when what would write them has not begun."""
    url = watched.http.base_url
    content = json.dumps({**BODY, "max_tokens": 200, "n": 8, "stream": True})
    head = [f"POST {CHAT} HTTP/1.1", f"Host: {url.host}", f"Authorization: Bearer {KEY}"]
    request = "\r\n".join([*head, f"Content-Length: {len(content)}", "", content]).encode()
    whole_step = Decoder.step

    def slow_step(self: Decoder) -> list[Progress]:
        time.sleep(0.02)
        return whole_step(self)

    monkeypatch.setattr(Decoder, "step", slow_step)
    for number in range(1, 21):
        with socket.create_connection((url.host, url.port or 80)) as connection:
            connection.sendall(request)
        watched.wait('tunesmith_requests_total{path="/v1/chat/completions"', number, 2)
        watched.wait("tunesmith_in_flight", 0, 1)  # all eight answers would take eight seconds
    assert watched.metric("tunesmith_answer_tokens_total") == 0  # counted when an answer ends: none did
    assert watched.alarms == []


def test_a_fault_in_a_stream_is_said_in_it(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(answers, "find_tool_calls", broken)
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = watched.http.post(CHAT, json={**BODY, "stream": True, "tools": tools})
    events = answer.text.strip().split("\n\n")
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "serve.route_fault"
    assert watched.alarms == ["serve.route_fault"]
    assert watched.http.post(CHAT, json=BODY).status_code == 200


def test_a_model_that_cannot_go_on_is_no_healthy_server(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost device: the forward pass fails, and so does every attempt to begin anew."""

    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    assert watched.http.get("/health").status_code == 200
    monkeypatch.setattr(Decoder, "step", broken)
    monkeypatch.setattr(Engine, "_new_decoder", broken)
    assert watched.http.post(CHAT, json=BODY).status_code == 500
    watched.wait("tunesmith_in_flight", 0, 2)
    for answer in (watched.http.get("/health"), watched.http.post(CHAT, json=BODY)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "serve.model_gone")
    assert watched.alarms == ["serve.model_fault", "serve.model_fault"]
