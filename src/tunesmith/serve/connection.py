"""One client's connection, held to limits: time to arrive, header lines, sizes of chunks, speed of reading.

uvicorn and h11 speak HTTP and wait for ever; this file says how long and how much. What is refused here has reached
no route. Everything is counted by bytes and seconds, so no content is looked at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tunesmith.core.errors import TunesmithError
from tunesmith.serve.api_errors import error_body, error_headers, status_of

MOST_HEAD_BYTES = 32 * 1024
MOST_HEADER_LINES = 100
_LEAST_CHUNK_BYTES = 64
_CHUNKS_OF_ANY_SIZE = 1024
_MOST_AHEAD_BYTES = 64 * 1024
_MOST_UNWANTED_BYTES = 16 * 2**20
_LEAST_READ_BYTES = 16 * 1024
_LOOK_SECONDS = 0.25
_LINGER_SECONDS = 5.0  # that a refused client has to say the rest and read why; closed before, it would be told nothing
_HURRIED_LINGER_SECONDS = 1.0  # the same while as many linger as are served
_SILENT_SECONDS = 1.0  # that a connection may say nothing while there is no room for others


def _crowded(most: int) -> TunesmithError:
    return TunesmithError("serve.too_many_connections", most=most, seconds=1)


@dataclass(frozen=True)
class ConnectionRules:
    """What one client may take.

    Args:
        seconds: for a request's head to arrive, then for its body, and for a client to read 16 KiB of an answer.
        connections: open at once, of all clients; about as many that were refused may linger.
        refused: told the status of each answer that no route has given.
    """

    seconds: float
    connections: int
    refused: Callable[[int], None]


class _Wire(h11.Connection):
    """h11, with limits on what it accepts.

    Attributes:
        reason: what was wrong.
        requests: heads read.
        in_hand: whether the last of them was handed on to the routes.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MOST_HEAD_BYTES)
        self.reason = ""
        self.requests = 0
        self.in_hand = False
        self._chunks = 0
        self._body_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event of the client. Errors: h11.RemoteProtocolError for what HTTP or this server forbids."""
        try:
            self._count_lines()
            event = super().next_event()
            if isinstance(event, h11.Request):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._count(len(event.data))
        except h11.RemoteProtocolError as error:
            self.reason = str(error)[:100]
            raise
        return event

    def _count_lines(self) -> None:
        """Refuse a flood of header lines before any of them is looked at."""
        if self.their_state is h11.IDLE:
            waiting = self.trailing_data[0]
            end = waiting.find(b"\r\n\r\n")
            if waiting.count(b"\n", 0, end if end >= 0 else len(waiting)) > MOST_HEADER_LINES + 1:
                raise h11.RemoteProtocolError(f"more than {MOST_HEADER_LINES} header lines")

    def _begin(self, request: h11.Request) -> None:
        self.requests += 1
        self.in_hand = False
        self._chunks = self._body_bytes = 0
        names = [name for name, _ in request.headers]
        if request.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("not HTTP 1.0 or 1.1")
        if len(names) > MOST_HEADER_LINES:
            raise h11.RemoteProtocolError(f"more than {MOST_HEADER_LINES} header lines")
        if b"transfer-encoding" in names and b"content-length" in names:
            raise h11.RemoteProtocolError("both Transfer-Encoding and Content-Length")
        self.in_hand = True

    def _count(self, size: int) -> None:
        self._chunks += 1
        self._body_bytes += size
        if self._chunks > _CHUNKS_OF_ANY_SIZE + self._body_bytes // _LEAST_CHUNK_BYTES:
            raise h11.RemoteProtocolError(f"chunks of less than {_LEAST_CHUNK_BYTES} bytes")


class Connection(H11Protocol):
    """uvicorn's protocol under `rules`."""

    rules: ClassVar[ConnectionRules]
    leaving: ClassVar[set[Connection]]
    """Those that were refused and have not closed; they take no room from others."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._wire = _Wire()
        self.conn = self._wire
        self._ahead = 0
        self._unwanted = 0
        self._refused_at: float | None = None
        self._awaited: tuple[int, object] | None = None
        self._awaited_since = 0.0
        self._unsent = 0
        self._unsent_since = 0.0
        self._clock = self._looked_at = 0.0
        self._next_look: asyncio.TimerHandle | None = None

    @property
    def _one_too_many(self) -> bool:
        """Whether this connection has asked nothing yet, and there is no room for more."""
        return self._wire.requests == 0 and len(self.connections) - len(self.leaving) > self.rules.connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch the clock."""
        super().connection_made(transport)
        self._looked_at = self.loop.time()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._next_look is not None:
            self._next_look.cancel()
        self.leaving.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless it is one connection too many or runs far ahead of the answers.

        The rest of a body that was answered unread is thrown away up to a limit: ended at once, the connection would
        take the answer with it.
        """
        if self._refused_at is None and self._one_too_many:
            self._refuse(_crowded(self.rules.connections))
            return
        self._ahead = self._ahead + len(data) if self.conn.their_state is h11.DONE else 0
        answered = self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE
        unread = answered or self._refused_at is not None
        self._unwanted = self._unwanted + len(data) if unread else 0
        if self._ahead > _MOST_AHEAD_BYTES or self._unwanted > _MOST_UNWANTED_BYTES:
            self.transport.abort()
        elif self._refused_at is None:
            super().data_received(data)

    def eof_received(self) -> None:
        """A client that ends in the middle of a request is told so; one that waits no longer has left."""
        if (
            self._refused_at is None
            and self._awaits() is not None
            and (self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0])
        ):
            self._refuse(TunesmithError("serve.cut_short"))

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or more of it than is taken."""
        self._refuse(
            TunesmithError(
                "serve.not_http",
                reason=self._wire.reason or msg,
                lines=MOST_HEADER_LINES,
                kib=MOST_HEAD_BYTES // 1024,
                chunk=_LEAST_CHUNK_BYTES,
            )
        )

    def _refuse(self, error: TunesmithError) -> None:
        """Answer past the routes and end the connection; cut it where an answer has already begun."""
        self.rules.refused(status_of(error))
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        if self._wire.in_hand:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        status = HTTPStatus(status_of(error))
        body = json.dumps(error_body(error), ensure_ascii=False).encode()
        headers = {
            **error_headers(error),
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.write_eof()  # and no more: closed at once, what the client still sends would cost it the answer
        self._refused_at = self._clock
        self.leaving.add(self)

    def shutdown(self) -> None:
        """Close as uvicorn does; one that was refused is only waited for."""
        if self._refused_at is not None:
            self.transport.abort()
        else:
            super().shutdown()

    def _look(self) -> None:
        """Look at the clock, a few times a second for as long as the connection is open.

        Only time in which this server listened counts: when its loop is late, it is not the client who is slow.
        """
        looked_at = self.loop.time()
        self._clock += min(looked_at - self._looked_at, _LOOK_SECONDS)
        self._looked_at = looked_at
        if self._lingers_too_long() or self._reads_too_slowly():
            self.transport.abort()
            return
        awaited = self._awaits()
        if awaited != self._awaited:
            self._awaited, self._awaited_since = awaited, self._clock
        elif awaited is not None:
            self._lose_patience(self._clock - self._awaited_since)
        self._next_look = self.loop.call_later(_LOOK_SECONDS, self._look)

    def _lingers_too_long(self) -> bool:
        many = len(self.leaving) > self.rules.connections
        seconds = _HURRIED_LINGER_SECONDS if many else _LINGER_SECONDS
        return self._refused_at is not None and self._clock - self._refused_at > seconds

    def _lose_patience(self, waited: float) -> None:
        """Refuse a request that was waited for too long; a shorter wait is too long where there is no room."""
        if self._one_too_many and waited > _SILENT_SECONDS:
            self._refuse(_crowded(self.rules.connections))
        elif waited > self.rules.seconds:
            self._refuse(TunesmithError("serve.too_slow", seconds=self.rules.seconds))

    def _awaits(self) -> tuple[int, object] | None:
        """Which part of which request has not arrived; None between requests, which uvicorn times itself."""
        if self.transport.is_closing() or self._refused_at is not None:
            return None
        state = self.conn.their_state
        begun = self._wire.requests == 0 or bool(self.conn.trailing_data[0])
        return (self._wire.requests, state) if state is h11.SEND_BODY or (state is h11.IDLE and begun) else None

    def _reads_too_slowly(self) -> bool:
        """Whether the client has left the same bytes of an answer unread for too long.

        What a stream adds would hide what the client reads, so its clock stands still until the buffer is full.
        """
        waiting = self.transport.get_write_buffer_size()
        adding = self.conn.our_state is h11.SEND_BODY and not self.flow.write_paused
        if adding or waiting == 0 or self._unsent == 0 or self._unsent - waiting >= _LEAST_READ_BYTES:
            self._unsent, self._unsent_since = waiting, self._clock
            return False
        return self._clock - self._unsent_since > self.rules.seconds


def ruled_by(given: ConnectionRules) -> type[Connection]:
    """The protocol class of a server with these rules."""

    class Ruled(Connection):
        rules = given
        leaving: ClassVar[set[Connection]] = set()

    return Ruled
