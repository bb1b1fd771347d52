"""Whose time is counted: a client's, never that of a server that could not listen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from tunesmith.core.events import Events
from tunesmith.serve.access import AccessKey
from tunesmith.serve.connection import Connection, ConnectionRules, ruled_by
from tunesmith.serve.guard import Access, Guard
from tunesmith.serve.measures import Measures

SECONDS = 2.0
BEGUN = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"


class Clock:
    """A loop in which time passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: Callable[[], None] = lambda: None

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Mock:
        self.due = callback
        return Mock()

    def create_task(self, work: Any, **_: object) -> Mock:
        work.close()
        return Mock()

    def pass_by(self, seconds: float, turns: int) -> None:
        for _ in range(turns):
            self.now += seconds
            self.due()


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None: ...

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def connect(clock: Clock, connections: int = 9) -> tuple[Connection, Transport]:
    async def nothing(scope: Any, receive: Any, send: Any) -> None: ...

    config = Config(nothing, log_config=None, lifespan="off", ws="none")
    config.load()
    rules = ConnectionRules(SECONDS, connections, lambda status: None)
    made = ruled_by(rules)(config, ServerState(), {}, clock)  # type: ignore[arg-type]
    transport = Transport()
    made.connection_made(transport)
    return made, transport


def test_a_client_that_pauses_is_refused() -> None:
    clock = Clock()
    connection, transport = connect(clock)
    connection.data_received(BEGUN)
    clock.pass_by(0.25, int(SECONDS / 0.25))
    assert not transport.written
    clock.pass_by(0.25, 3)
    assert transport.written.startswith(b"HTTP/1.1 408 ") and b"serve.too_slow" in transport.written


def test_a_late_loop_is_not_counted_against_a_client() -> None:
    clock = Clock()
    connection, transport = connect(clock)
    connection.data_received(BEGUN)
    clock.pass_by(60.0, int(SECONDS / 0.25))
    assert not transport.written


def test_silence_where_there_is_no_room_is_asked_to_come_again() -> None:
    clock = Clock()
    _, transport = connect(clock, connections=0)
    clock.pass_by(0.25, 8)
    assert transport.written.startswith(b"HTTP/1.1 503 ") and b"serve.too_many_connections" in transport.written
    assert b"Retry-After: 1" in transport.written


@pytest.mark.parametrize(("others_leaving", "seconds"), [(0, 5.0), (2, 1.0)])
def test_a_refused_client_may_linger_to_read_why(others_leaving: int, seconds: float) -> None:
    clock = Clock()
    connection, transport = connect(clock, connections=1)
    connection.leaving.update(Mock() for _ in range(others_leaving))
    connection.data_received(b"no HTTP at all\r\n\r\n")
    assert b"serve.not_http" in transport.written
    clock.pass_by(0.25, int(seconds / 0.25))
    connection.data_received(b"what it was still saying")
    assert not transport.aborted
    clock.pass_by(0.25, 2)
    assert transport.aborted


def test_those_that_leave_take_no_room() -> None:
    clock = Clock()
    connection, transport = connect(clock, connections=1)
    left = {Mock(), Mock()}
    connection.connections.update(left)
    connection.leaving.update(left)
    clock.pass_by(0.25, 8)
    assert not transport.written


def test_the_loop_turns_between_two_messages_of_a_stream() -> None:
    """asyncio tells of a lost connection in a later turn, and complains of the fifth write to it before that."""
    turns: list[str] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        asyncio.get_running_loop().call_soon(turns.append, "turn")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def asked() -> None:
        access = Access(AccessKey("k" * 32, None, False), "127.0.0.1", loopback=True)
        guard = Guard(stream, access, Measures(), Events())
        scope = {"type": "http", "method": "GET", "path": "/health", "headers": [(b"host", b"127.0.0.1")]}

        async def send(message: Any) -> None:
            turns.append(message["type"])

        await guard(scope, lambda: None, send)  # type: ignore[arg-type]

    asyncio.run(asked())
    assert turns == ["http.response.start", "turn", "http.response.body"]
