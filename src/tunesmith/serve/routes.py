"""Every route of the service, and who may use it. What is not in this table does not exist."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tunesmith.serve.requests import ChatRequest, FeedbackRequest

_SCHEMAS = "#/components/schemas/"
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}


class Permission(StrEnum):
    """Who may use a route."""

    EVERYONE = "everyone"
    KEY_HOLDERS = "key holders"


@dataclass(frozen=True)
class Route:
    """One method on one path.

    Args:
        path: with placeholders as Starlette writes them; a route for everyone has none.
        body: what a request carries.
        headers: that the route reads beyond those of HTTP itself.
    """

    method: Literal["GET", "POST"]
    path: str
    permission: Permission
    body: type[BaseModel] | None = None
    headers: tuple[str, ...] = ()


ROUTES = (
    Route("GET", "/health", Permission.EVERYONE),
    Route("GET", "/metrics", Permission.KEY_HOLDERS),
    Route("GET", "/openapi.json", Permission.KEY_HOLDERS),
    Route("GET", "/v1/models", Permission.KEY_HOLDERS),
    Route("GET", "/v1/models/{name:path}", Permission.KEY_HOLDERS),
    Route("POST", "/v1/chat/completions", Permission.KEY_HOLDERS, ChatRequest),
    Route("POST", "/v1/feedback", Permission.KEY_HOLDERS, FeedbackRequest, ("Idempotency-Key",)),
)


def describe(version: str) -> dict[str, object]:
    """The OpenAPI 3.1 description of `ROUTES`."""
    bodies = [(route.body, "validation") for route in ROUTES if route.body is not None]
    _, shared = models_json_schema(bodies, ref_template=_SCHEMAS + "{model}")  # type: ignore[arg-type]
    paths: dict[str, dict[str, object]] = {}
    for route in ROUTES:
        paths.setdefault(route.path.replace(":path}", "}"), {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tunesmith", "version": version},
        "paths": paths,
        "components": {
            "schemas": {**shared["$defs"], "Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, object]:
    parameters = [
        {"name": part.strip("{}").removesuffix(":path"), "in": "path", "required": True, "schema": {"type": "string"}}
        for part in route.path.split("/")
        if part.startswith("{")
    ]
    parameters += [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in route.headers
    ]
    refused = {"content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}Error"}}}, "description": "refused"}
    operation: dict[str, object] = {
        "security": [] if route.permission is Permission.EVERYONE else [{"key": []}],
        "responses": {"200": {"description": "done"}, "default": refused},
    }
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        schema = {"$ref": f"{_SCHEMAS}{route.body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation
