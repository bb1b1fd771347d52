"""Reading a request's body: plain JSON in UTF-8, bounded in bytes, depth and values before it is parsed.

Nothing here unpacks or splits a body: a compressed one is refused, and so is a form with parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from tunesmith.core.errors import TunesmithError
from tunesmith.serve.api_errors import RequestError

MOST_DEPTH = 64
MOST_VALUES = 50_000
_BODIES_AT_ONCE = 16
_JSON_TYPE = re.compile(r'\s*application/json\s*(;\s*charset="?utf-?8"?\s*)?', re.IGNORECASE)
# A whole string, or what opens, closes or separates. Each byte is looked at once.
_MARK = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{},]', re.DOTALL)

Parsed = TypeVar("Parsed")


@dataclass
class BodyReader:
    """Reads bodies for all requests of a server, which together may hold 16 times the largest body.

    Args:
        most_bytes: of one body.
    """

    most_bytes: int
    _held: int = 0

    async def read(self, request: Request, parse: Callable[[bytes], Parsed]) -> Parsed:
        """Receive, check and parse a body; parsing keeps off the loop that serves everyone.

        Errors: serve.not_json, serve.encoding_refused, serve.body_too_large, serve.bodies_full, serve.too_deep,
            serve.too_many_values, those of `parse`.
        """
        self._check_headers(request)
        body = bytearray()
        with self._room(body):
            async for chunk in request.stream():
                self._held += len(chunk)
                body += chunk
                if len(body) > self.most_bytes:
                    raise self._too_large()
                if self._held > _BODIES_AT_ONCE * self.most_bytes:
                    raise TunesmithError("serve.bodies_full", seconds=1)
            return await run_in_threadpool(_parse_checked, bytes(body), parse)

    @contextmanager
    def _room(self, body: bytearray) -> Iterator[None]:
        try:
            yield
        finally:
            self._held -= len(body)

    def _check_headers(self, request: Request) -> None:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.strip().lower() not in ("identity", ""):
            raise RequestError("serve.encoding_refused", "Content-Encoding", given=encoding[:100])
        kind = request.headers.get("content-type")
        if kind is not None and not _JSON_TYPE.fullmatch(kind):
            raise RequestError("serve.not_json", "Content-Type", given=kind[:100])
        stated = request.headers.get("content-length", "0")
        if stated.isdigit() and int(stated) > self.most_bytes:
            raise self._too_large()

    def _too_large(self) -> RequestError:
        return RequestError("serve.body_too_large", most_mb=self.most_bytes // 2**20)


def _parse_checked(body: bytes, parse: Callable[[bytes], Parsed]) -> Parsed:
    check_shape(body)
    return parse(body)


def check_shape(body: bytes) -> None:
    """Refuse JSON that is nested too deep or holds too many values, without building any of it.

    Errors: serve.too_deep, serve.too_many_values.
    """
    opened = body.count(b"[") + body.count(b"{")
    if opened <= MOST_DEPTH and opened + body.count(b",") <= MOST_VALUES:
        return  # an upper bound: marks inside strings are counted too
    depth = values = strings = 0
    for mark in _MARK.finditer(body):
        first = body[mark.start()]
        if first in b"[{":
            depth += 1
            values += 1
        elif first in b"]}":
            depth -= 1
        elif first in b",":
            values += 1
        else:
            strings += 1
        if depth > MOST_DEPTH:
            raise RequestError("serve.too_deep", "body", most=MOST_DEPTH)
        if values > MOST_VALUES or strings > 3 * MOST_VALUES:
            raise RequestError("serve.too_many_values", "body", most=MOST_VALUES)
