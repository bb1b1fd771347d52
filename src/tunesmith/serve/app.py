"""What the routes do. This is the one place that makes an application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith import __version__
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.serve.answers import Asking, Head, Teller
from tunesmith.serve.api_errors import RequestError, error_response
from tunesmith.serve.bodies import BodyReader
from tunesmith.serve.engine import Engine
from tunesmith.serve.guard import CLIENT_LEFT, Access, Guard
from tunesmith.serve.measures import Measures
from tunesmith.serve.questions import QuestionReader
from tunesmith.serve.requests import FeedbackRequest, parse_chat, parse_feedback
from tunesmith.serve.routes import ROUTES, describe
from tunesmith.store.feedback import Feedback, FeedbackStore

_LONGEST_IDEMPOTENCY_KEY = 200

Handler = Callable[[Request], Awaitable[Response]]
Answer = TypeVar("Answer")


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
    access: Access
    bodies: BodyReader
    emitter: Emitter


class _Stream(StreamingResponse):
    """Server-sent events of a question, which is given up when they end, even before the first was read."""

    def __init__(self, asking: Asking, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._asking = asking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._asking.cancel()  # not in the generator: it never begins where the client leaves early


def build_app(service: Service) -> ASGIApp:
    """The whole application, guard outermost."""
    return Guard(build_routes(service), service.access, service.measures, service.emitter)


def build_routes(service: Service) -> FastAPI:
    """The routes of the table and no other; each has something to do, or this fails with KeyError."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    handlers = _handlers(service)
    for route in ROUTES:
        app.add_api_route(route.path, handlers[route.path], methods=[route.method], response_model=None)
    app.add_exception_handler(TunesmithError, _known)
    app.add_exception_handler(HTTPException, _unrouted)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _unforeseen)
    return app


def _handlers(service: Service) -> dict[str, Handler]:
    async def health(request: Request) -> Response:
        service.engine.check()
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        return Response(service.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def description(request: Request) -> Response:
        return JSONResponse(describe(__version__))

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [_model(service)]})

    async def model(request: Request) -> Response:
        _check_name(service, str(request.path_params["name"]))
        return JSONResponse(_model(service))

    async def chat(request: Request) -> Response:
        return await _chat(service, request)

    async def feedback(request: Request) -> Response:
        return await _feedback(service, request)

    return {
        "/health": health,
        "/metrics": metrics,
        "/openapi.json": description,
        "/v1/models": models,
        "/v1/models/{name:path}": model,
        "/v1/chat/completions": chat,
        "/v1/feedback": feedback,
    }


def _model(service: Service) -> dict[str, object]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "tunesmith"}


def _check_name(service: Service, name: str) -> None:
    if name != service.name:
        raise RequestError("serve.unknown_model", "model", model=name[:200], served=service.name)


async def _chat(service: Service, request: Request) -> Response:
    asked = await service.bodies.read(request, parse_chat)
    question = await run_in_threadpool(service.reader.read, asked)
    service.measures.prompt_tokens.inc(len(question.prompt))
    asking = Asking(service.engine, question)
    head = Head.new(service.name)
    if asked.stream:
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return _Stream(asking, service.teller.stream(asking, question, head, with_usage=with_usage))
    try:
        answer = await _unless_left(request, service.teller.whole(asking, question, head))
    finally:
        asking.cancel()
    return Response(status_code=CLIENT_LEFT) if answer is None else JSONResponse(answer)


async def _unless_left(request: Request, work: Coroutine[None, None, Answer]) -> Answer | None:
    """What comes of the work; None as soon as the client has left, and the work is cancelled."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, left = asyncio.create_task(work), asyncio.create_task(leaving())
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, left):
            task.cancel()
        await asyncio.gather(working, left, return_exceptions=True)


async def _feedback(service: Service, request: Request) -> Response:
    given = await service.bodies.read(request, parse_feedback)
    _check_name(service, given.model)
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
        user_hash=service.access.key.hash_user(given.user),
    )


async def _known(request: Request, error: Exception) -> Response:
    if not isinstance(error, TunesmithError):
        raise error
    return error_response(error)


async def _unrouted(request: Request, error: Exception) -> Response:
    wrong_method = isinstance(error, HTTPException) and error.status_code == 405
    code = "serve.wrong_method" if wrong_method else "serve.unknown_path"
    return error_response(TunesmithError(code, path=request.url.path[:200], method=request.method[:20]))


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)  # nobody reads it


async def _unforeseen(request: Request, error: Exception) -> Response:
    """The answer only: what was raised goes on to the guard, which reports it."""
    return error_response(TunesmithError("serve.route_fault", reason=type(error).__name__))
