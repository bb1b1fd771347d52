"""Every route and method is reached by its declared permission alone; what is not declared does not exist."""

from __future__ import annotations

import ast
import json
import statistics
import time
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

import tunesmith
from tunesmith.serve.access import AccessKey
from tunesmith.serve.app import build_routes
from tunesmith.serve.routes import ROUTES, Permission, describe
from tunesmith.serve.server import Server

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "ANYTHING")
UNDECLARED = (
    "/", "/docs", "/redoc", "/openapi.yaml", "/static/", "/static/../health", "/favicon.ico", "/v1", "/v1/",
    "/v1/files", "/v1/models/", "//health", "/health/", "/HEALTH", "/health;x", "/health%00", "/health%2f",
    "/./health", "/x/../health", "/%2e%2e/health", "/metrics/", "/v1/chat/completions/", "/debug", "/admin",
    "/.env", "/v1/chat", "*",
)  # fmt: skip
EXCEPTIONS: frozenset[str] = frozenset()


def declared() -> dict[tuple[str, str], Permission]:
    return {(route.method, route.path.replace("{name:path}", "tiny")): route.permission for route in ROUTES}


def test_the_application_has_the_routes_of_the_table_and_no_other() -> None:
    app = build_routes(SimpleNamespace())  # type: ignore[arg-type]
    assert all(isinstance(route, APIRoute) for route in app.routes)
    found = {(method, route.path) for route in app.routes for method in route.methods}  # type: ignore[attr-defined]
    assert found == {(route.method, route.path) for route in ROUTES}
    assert not EXCEPTIONS
    for route in ROUTES:
        assert route.permission is not Permission.EVERYONE or "{" not in route.path


def test_routes_are_made_in_one_file() -> None:
    making = {
        "FastAPI",
        "Starlette",
        "APIRouter",
        "Router",
        "Mount",
        "StaticFiles",
        "add_api_route",
        "add_route",
        "mount",
    }
    found = set()
    for path in Path(tunesmith.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
                if name in making:
                    found.add(path.name)
    assert found == {"app.py"}


@pytest.mark.parametrize("key", [None, "a-wrong-key-0123456789", "right"])
def test_every_route_and_method_is_reached_by_its_permission_alone(
    http: httpx.Client, server: Server, key: str | None
) -> None:
    headers = {"Authorization": "" if key is None else f"Bearer {server.key.text if key == 'right' else key}"}
    permissions = declared()
    address = http.base_url
    connection = HTTPConnection(address.host, address.port, timeout=30)  # unlike httpx it leaves a path as it is
    try:
        for path in [*dict.fromkeys(path for _, path in permissions), *UNDECLARED]:
            for method in METHODS:
                connection.request(method, path, b"{}" if method == "POST" else None, headers)
                answer = connection.getresponse()
                content = answer.read()
                permission = permissions.get((method, path))
                what = f"{method} {path} -> {answer.status}"
                if method == "GET" and path.startswith("/v1/models/"):
                    permission = Permission.KEY_HOLDERS  # a route for any name
                if permission is Permission.EVERYONE or (permission is not None and key == "right"):
                    assert answer.status not in (401, 403, 405) and b"serve.unknown_path" not in content, what
                    continue
                refusal = 401 if key != "right" else 405 if path in permissions_of(path) else 404
                assert answer.status == refusal, what
                if method != "HEAD":
                    assert json.loads(content)["error"]["code"].startswith("serve."), what
    finally:
        connection.close()


def permissions_of(path: str) -> dict[str, Permission]:
    """Paths that some method reaches: the path itself, or any name below /v1/models/."""
    paths = {declared_path: permission for (_, declared_path), permission in declared().items()}
    if path.startswith("/v1/models/"):
        paths[path] = Permission.KEY_HOLDERS
    return paths


def test_a_key_must_be_said_once_and_whole(http: httpx.Client, server: Server) -> None:
    key = server.key.text
    wrong = (
        f"Bearer {key[:-1]}", f"Bearer {key}x", f"Bearer{key}", f"Basic {key}", key, "Bearer", f"Bearer {key.upper()}",
        f"Bearer {key} {key}", f"Bearer \x00{key}", "Bearer null", f"Bearer {key[::-1]}",
    )  # fmt: skip
    for each in wrong:
        try:
            answer = http.get("/v1/models", headers={"Authorization": each})
        except httpx.LocalProtocolError:  # the client itself refuses to send it
            continue
        assert answer.status_code in (400, 401), each
    twice = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
    with httpx.Client(base_url=http.base_url, headers=None) as plain:
        assert plain.get("/v1/models", headers=twice).status_code == 401
        assert plain.get(f"/v1/models?api_key={key}").status_code == 401
        assert plain.get("/v1/models", headers={"X-Api-Key": key, "Cookie": f"key={key}"}).status_code == 401


def test_comparing_a_key_takes_no_longer_when_more_of_it_is_right() -> None:
    key = AccessKey("k" * 40, None, False)
    near, far = f"Bearer {'k' * 39}x", f"Bearer x{'k' * 39}"

    def timed(header: str) -> int:
        started = time.perf_counter_ns()
        key.matches(header)
        return time.perf_counter_ns() - started

    pairs = [(timed(near), timed(far)) for _ in range(5000)]
    nearly, hardly = (statistics.median(pair[place] for pair in pairs) for place in (0, 1))
    assert abs(nearly - hardly) < 0.2 * hardly


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:80",
        "[::2]",
        "localhost.",
        "",
        "127.0.0.1@evil",
        "0.0.0.0",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing"])
def test_a_foreign_host_gets_nothing(http: httpx.Client, host: str, path: str) -> None:
    answer = http.get(path, headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "serve.host_refused")


def test_the_description_names_every_route_and_field(http: httpx.Client) -> None:
    document: dict[str, Any] = http.get("/openapi.json").json()
    assert document == describe(tunesmith.__version__)
    found = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert found == {(route.method, route.path.replace(":path", "")) for route in ROUTES}
    assert set(document["components"]["schemas"]) >= {"ChatRequest", "FeedbackRequest", "Turn", "Error"}
    public = {path for path, methods in document["paths"].items() for each in methods.values() if not each["security"]}
    assert public == {"/health"}
