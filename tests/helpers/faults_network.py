"""A block on the outside that also remembers: whoever tries is refused, and the try is written down."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

OUTSIDE = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")


class ConnectionTriedError(OSError):
    """Somebody tried to reach the outside."""


_listening: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _listening and event in OUTSIDE:
        _listening[-1].append(f"{event} {arguments[1:] if event == 'socket.connect' else arguments}")
        raise ConnectionTriedError(event)


sys.addaudithook(_hook)


@contextmanager
def no_connections() -> Iterator[list[str]]:
    """Refuse and record every connection and every look-up of a name that Python's own sockets are asked for."""
    tried: list[str] = []
    _listening.append(tried)
    try:
        yield tried
    finally:
        _listening.remove(tried)
