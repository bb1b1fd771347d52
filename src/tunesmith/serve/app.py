"""The routes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.serve.access import AccessKey, host_allowed
from tunesmith.serve.answers import Asking, Head, Teller
from tunesmith.serve.api_errors import RequestError, error_response
from tunesmith.serve.engine import Engine
from tunesmith.serve.measures import Measures
from tunesmith.serve.questions import QuestionReader
from tunesmith.serve.requests import FeedbackRequest, parse_chat, parse_feedback
from tunesmith.store.feedback import Feedback, FeedbackStore

_LONGEST_IDEMPOTENCY_KEY = 200
_ROUTES = frozenset({"/v1/models", "/v1/chat/completions", "/v1/feedback", "/health", "/metrics"})
_OPEN = "/health"


@dataclass(frozen=True)
class Service:
    """Everything that the routes need."""

    name: str
    created: int
    reader: QuestionReader
    teller: Teller
    engine: Engine
    feedback: FeedbackStore
    measures: Measures
    key: AccessKey
    host: str
    loopback: bool
    max_body_bytes: int
    emitter: Emitter


class Guard:
    """Outermost layer: Host, key, counting. Nothing behind it is reached without the key but `/health`."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in _ROUTES else "other"
        started = time.monotonic()
        status = 499  # the client left before an answer began

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refused = self._refusal(scope)
            answer = self._app if refused is None else error_response(refused)
            await answer(scope, receive, counted)
        finally:
            self._service.measures.requests.labels(path, str(status)).inc()
            self._service.measures.seconds.labels(path).observe(time.monotonic() - started)

    def _refusal(self, scope: Scope) -> TunesmithError | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        service = self._service
        if not host_allowed(headers.get(b"host"), service.host, loopback=service.loopback):
            return TunesmithError("serve.host_refused", host=headers.get(b"host", "")[:200])
        if scope["path"] != _OPEN and not service.key.matches(headers.get(b"authorization")):
            return TunesmithError("serve.wrong_key")
        return None


def build_app(service: Service) -> ASGIApp:
    """The whole application, guard outermost."""
    app = FastAPI(title="Tunesmith", docs_url=None, redoc_url=None, openapi_url=None)
    _add_error_handlers(app, service)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [_model(service)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, object]:
        if name != service.name:
            raise RequestError("serve.unknown_model", "model", model=name[:200], served=service.name)
        return _model(service)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await _chat(service, request)

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        return await _feedback(service, request)

    return Guard(app, service)


def _model(service: Service) -> dict[str, object]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "tunesmith"}


async def _chat(service: Service, request: Request) -> Response:
    asked = parse_chat(await _body(service, request))
    question = await run_in_threadpool(service.reader.read, asked)
    service.measures.prompt_tokens.inc(len(question.prompt))
    asking = Asking(service.engine, question)
    head = Head.new(service.name)
    if asked.stream:
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        events = service.teller.stream(asking, question, head, request.is_disconnected, with_usage=with_usage)
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    answer = await service.teller.whole(asking, question, head, request.is_disconnected)
    return Response(status_code=499) if answer is None else JSONResponse(answer)


async def _feedback(service: Service, request: Request) -> Response:
    given = parse_feedback(await _body(service, request))
    if given.model != service.name:
        raise RequestError("serve.unknown_model", "model", model=given.model, served=service.name)
    once = request.headers.get("idempotency-key")
    if once is not None and not 0 < len(once) <= _LONGEST_IDEMPOTENCY_KEY:
        reason = f"1 to {_LONGEST_IDEMPOTENCY_KEY} characters"
        raise RequestError("serve.bad_request", "Idempotency-Key", place="Idempotency-Key", reason=reason)
    number, new = await run_in_threadpool(service.feedback.add, _stored_form(service, given), once)
    if new:
        service.measures.feedback.labels(given.kind).inc()
    body = {"id": number, "object": "feedback", "kind": given.kind, "new": new}
    return JSONResponse(body, status_code=201 if new else 200)


def _stored_form(service: Service, given: FeedbackRequest) -> Feedback:
    return Feedback(
        model=given.model,
        kind=given.kind,
        messages=tuple(turn.model_dump(exclude_defaults=True) for turn in given.messages),
        answer=given.answer,
        corrected=given.corrected,
        rejected=given.rejected,
        comment=given.comment,
        consent=given.consent,
        user_hash=service.key.hash_user(given.user),
    )


async def _body(service: Service, request: Request) -> bytes:
    """The request's body, read no further than allowed. Errors: serve.body_too_large."""
    too_large = RequestError("serve.body_too_large", most_mb=service.max_body_bytes // 2**20)
    stated = request.headers.get("content-length", "0")
    if stated.isdigit() and int(stated) > service.max_body_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > service.max_body_bytes:
            raise too_large
    return bytes(body)


def _add_error_handlers(app: FastAPI, service: Service) -> None:
    @app.exception_handler(TunesmithError)
    async def known(request: Request, error: TunesmithError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> Response:
        code = "serve.wrong_method" if error.status_code == 405 else "serve.unknown_path"
        return error_response(TunesmithError(code, path=request.url.path[:200], method=request.method))

    @app.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        service.emitter.emit("alarm", code="serve.model_fault", reason=f"{type(error).__name__}: {error}"[:500])
        return error_response(TunesmithError("serve.model_fault", reason=type(error).__name__))
