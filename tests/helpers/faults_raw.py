"""A client that speaks in bytes."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from faults_service import KEY

_WAIT_SECONDS = 15
REFUSED = frozenset(range(400, 500))
CLOSED = 0


class Raw:
    """One connection. Sending goes on until the server has had enough; reading gives the statuses that came."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_WAIT_SECONDS)
        self.gone = False

    def send(self, data: bytes) -> bool:
        """False once the server has closed."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.gone = True
        return not self.gone

    def drip(self, data: bytes, seconds: float) -> None:
        """One byte at a time until the server closes or says something."""
        for place in range(len(data)):
            if not self.send(data[place : place + 1]) or self.answered(seconds):
                return

    def answered(self, seconds: float = 0.0) -> bool:
        """Whether there is something to read."""
        self.socket.settimeout(seconds or 0.0001)
        try:
            return self.socket.recv(1, socket.MSG_PEEK) is not None
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionResetError:
            return True
        finally:
            self.socket.settimeout(_WAIT_SECONDS)

    def everything(self) -> bytes:
        """What comes until the server closes."""
        received = bytearray()
        try:
            while piece := self.socket.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        return bytes(received)

    def status(self) -> int:
        """Of the first answer, read no further; CLOSED when there was none."""
        received = b""
        try:
            while b"\r\n" not in received and (piece := self.socket.recv(4096)):
                received += piece
        except ConnectionResetError:
            pass
        return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.") else CLOSED

    def reset(self) -> None:
        """Leave without a word."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        """Leave."""
        self.socket.close()


def head(
    *lines: str | bytes, method: str = "POST", path: str = "/v1/chat/completions", key: bool = True, host: bool = True
) -> bytes:
    """A request's head."""
    given = [b"%s %s HTTP/1.1" % (method.encode(), path.encode("latin-1"))]
    given += [b"Host: 127.0.0.1"] if host else []
    given += [f"Authorization: Bearer {KEY}".encode()] if key else []
    given += [line if isinstance(line, bytes) else line.encode("latin-1") for line in lines]
    return b"\r\n".join([*given, b"", b""])


def whole(body: bytes, *lines: str, **where: object) -> bytes:
    """A request with its true length."""
    return head(f"Content-Length: {len(body)}", *lines, **where) + body  # type: ignore[arg-type]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(frozen=True)
class Attack:
    """What is sent, and the statuses that are right; CLOSED where no answer is right too."""

    name: str
    send: Callable[[Raw], None]
    wanted: frozenset[int]
    seconds: float = 2.0
    """Within which it must be over."""


def carry_out(port: int, attack: Attack) -> tuple[int, float]:
    """The status it met with, and the seconds until the connection could be left."""
    started = time.monotonic()
    raw = Raw(port)
    try:
        attack.send(raw)
        status = CLOSED if raw.socket.fileno() < 0 else raw.status()
    finally:
        raw.close()
    return status, time.monotonic() - started
