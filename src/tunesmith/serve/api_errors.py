"""Errors as OpenAI's clients expect them, with our code, cause and next step inside."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from tunesmith.core.errors import TunesmithError
from tunesmith.messages import render

_STATUS = {
    "serve.wrong_key": 401,
    "serve.host_refused": 403,
    "serve.unknown_model": 404,
    "serve.unknown_path": 404,
    "serve.wrong_method": 405,
    "serve.too_slow": 408,
    "store.key_reused": 409,
    "serve.body_too_large": 413,
    "serve.encoding_refused": 415,
    "serve.not_json": 415,
    "serve.queue_full": 429,
    "serve.model_fault": 500,
    "serve.route_fault": 500,
    "serve.bodies_full": 503,
    "serve.model_gone": 503,
    "store.cannot_write": 503,
    "serve.stopping": 503,
    "serve.too_many_connections": 503,
}
_KIND = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestError(TunesmithError):
    """A request that cannot be answered; `param` names the field at fault."""

    def __init__(self, code: str, /, param: str | None = None, **facts: str | int | float) -> None:
        super().__init__(code, **facts)
        self.param = param


def status_of(error: TunesmithError) -> int:
    """HTTP status: what is not listed is a fault of the request, 400."""
    return _STATUS.get(error.code, 400)


def error_body(error: TunesmithError) -> dict[str, object]:
    """The `error` object of OpenAI's API."""
    words = render(error)
    status = status_of(error)
    kind = _KIND.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = error.param if isinstance(error, RequestError) else None
    return {"error": {"message": f"{words.cause} {words.next_step}", "type": kind, "param": param, "code": error.code}}


def error_response(error: TunesmithError) -> JSONResponse:
    """The answer to a request that failed."""
    return JSONResponse(error_body(error), status_code=status_of(error), headers=dict(error_headers(error)))


def error_headers(error: TunesmithError) -> Mapping[str, str]:
    """What the client must know beside the body: how to show who it is, or when to come back."""
    status = status_of(error)
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if status in (429, 503):
        return {"Retry-After": str(error.facts.get("seconds", 5))}
    return {}
