"""The outermost layer: nothing is reached but by a declared permission, and nothing that is raised goes further."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.serve.access import AccessKey, host_allowed
from tunesmith.serve.api_errors import error_response
from tunesmith.serve.measures import Measures
from tunesmith.serve.routes import ROUTES, Permission

_PATHS = frozenset(route.path for route in ROUTES)
_FOR_EVERYONE = frozenset((route.method, route.path) for route in ROUTES if route.permission is Permission.EVERYONE)
CLIENT_LEFT = 499
"""Status in the figures of a request whose client did not wait for an answer."""


@dataclass(frozen=True)
class Access:
    """Who may ask, and under which names this server is known."""

    key: AccessKey
    host: str
    loopback: bool


class Guard:
    """Checks name and key, counts, and turns whatever escapes a route into an answer."""

    def __init__(self, app: ASGIApp, access: Access, measures: Measures, emitter: Emitter) -> None:
        self._app = app
        self._access = access
        self._measures = measures
        self._emitter = emitter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and hand it on."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        status = CLIENT_LEFT
        turns = _Turns()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await turns.one_has_passed()
            await send(message)

        try:
            refused = self._refusal(scope)
            answer = self._app if refused is None else error_response(refused)
            await answer(scope, receive, noted)
        except Exception as error:  # the server answers the next request, whatever a route raised
            reason = f"{type(error).__name__}: {error}"[:500]
            self._emitter.emit("alarm", code="serve.route_fault", reason=reason)
            if status == CLIENT_LEFT:
                fault = error_response(TunesmithError("serve.route_fault", reason=type(error).__name__))
                await fault(scope, receive, noted)
        finally:
            path = scope["path"] if scope["path"] in _PATHS else "other"
            self._measures.requests.labels(path, str(status)).inc()
            self._measures.seconds.labels(path).observe(time.monotonic() - started)

    def _refusal(self, scope: Scope) -> TunesmithError | None:
        host = _only(scope, b"host")
        if not host_allowed(host, self._access.host, loopback=self._access.loopback):
            return TunesmithError("serve.host_refused", host=(host or "")[:200])
        if (scope["method"], scope["path"]) in _FOR_EVERYONE:
            return None
        if not self._access.key.matches(_only(scope, b"authorization")):
            return TunesmithError("serve.wrong_key")
        return None


class _Turns:
    """Lets the loop turn at least once between two messages, so that it learns of a client that has gone.

    asyncio tells of it in a later turn, and complains of the fifth write before that. A stream that waits for its next
    token lets the loop turn anyway: it waits for no other turn, which may be long while others attack.
    """

    def __init__(self) -> None:
        self._passed = True

    async def one_has_passed(self) -> None:
        """Wait for a turn unless there was one since the last call."""
        if not self._passed:
            await asyncio.sleep(0)
        self._passed = False
        asyncio.get_running_loop().call_soon(self._note)

    def _note(self) -> None:
        self._passed = True


def _only(scope: Scope, name: bytes) -> str | None:
    """The value of a header; None when it is missing or said twice, which two readers could take differently."""
    values = [value for each, value in scope["headers"] if each == name]
    return values[0].decode("latin-1") if len(values) == 1 else None
