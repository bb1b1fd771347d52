"""G2: requests made up from the service's own description get an answer or a refusal that names the field."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
from faults_openapi import Description, Operation, Place, dumps, unique_schemas, values
from faults_service import KEY, MODEL, Service, chat_body
from faults_tally import Tally
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.case("G2"), pytest.mark.timeout(1800)]
_KINDS = ("string", "integer", "number", "boolean", "array", "object", "null")
_NO_OBJECT = ("Invalid JSON", "should be an object")
_NOT_ROUTED = frozenset({"serve.wrong_key", "serve.host_refused", "serve.unknown_path", "serve.wrong_method"})
_FIELDLESS = frozenset(
    {"serve.body_too_large", "serve.queue_full", "store.key_reused", "store.unstorable", *_NOT_ROUTED}
)


@dataclass(frozen=True)
class Asked:
    """A request: where it goes, and what it carries."""

    operation: Operation
    method: str
    path: str
    body: bytes | None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Seen:
    """What has been answered so far."""

    requests: Counter[str] = field(default_factory=Counter)
    routed: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)


def bodies(description: Description, operation: Operation) -> st.SearchStrategy[bytes]:
    """Whole bodies with one to three strange fields, bodies that only look whole, and bytes."""
    assert operation.body is not None
    schema = operation.body
    places = [place for kind in _KINDS for place in description.places(schema, kind)]
    smallest = description.smallest(schema)
    fields = st.sampled_from(sorted(description.resolve(schema)["properties"]))

    def at(pairs: list[tuple[Place, Any]]) -> dict[str, Any]:
        found = dict(smallest)
        for place, value in pairs:
            found |= {str(place[1]): description.body_with(schema, place, value)[place[1]]}
        return found

    deep = st.lists(st.tuples(st.sampled_from(places).filter(lambda place: len(place) > 1), values()), max_size=3).map(
        at
    )
    flat = st.dictionaries(fields | st.text(max_size=10), values(), max_size=3).map(lambda each: smallest | each)
    held = unique_schemas().map(
        lambda each: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": each}}}
    )
    called = unique_schemas().map(
        lambda each: {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": each}}],
            "tool_choice": "required",
        }
    )
    whole = st.one_of(deep, deep, flat, (held | called).map(lambda each: smallest | each))
    cut = st.tuples(whole.map(dumps), st.integers(0, 400)).map(lambda pair: pair[0][: pair[1]])
    return st.one_of(
        whole.map(dumps), whole.map(dumps), whole.map(dumps), values().map(dumps), cut, st.binary(max_size=200)
    )


def header_values() -> st.SearchStrategy[str]:
    return st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=300)


def queries() -> st.SearchStrategy[str]:
    """What no route reads. Without it there would be few different requests that carry no body: none is tried twice."""
    return st.text(max_size=40).map(lambda text: "?" + quote(text, safe="&=;/?"))


def requests(description: Description, operation: Operation) -> st.SearchStrategy[Asked]:
    """Requests to a route; one in eight knows no key, or goes where nothing is."""

    @st.composite
    def one(draw: st.DrawFn) -> Asked:
        path = operation.path
        for name in operation.placeholders:
            path = path.replace(f"{{{name}}}", quote(draw(st.just(MODEL) | st.text(min_size=1, max_size=40)), safe="/"))
        body = draw(bodies(description, operation)) if operation.body is not None else None
        headers = [("Authorization", f"Bearer {KEY}")]
        headers += [(name, draw(header_values())) for name in operation.headers if draw(st.booleans())]
        method = operation.method
        astray = draw(st.sampled_from(range(24)))
        if astray == 21:  # what is simplest comes most often, so these are the last
            headers[0] = ("Authorization", draw(header_values()))
        elif astray == 22:
            path += "/" + quote(draw(st.text(min_size=1, max_size=20)), safe="/")
        elif astray == 23:
            method = draw(st.sampled_from(["PUT", "DELETE", "PATCH", "OPTIONS"]))
        path += draw(st.just("") | queries())
        return Asked(operation, method, path, body, tuple(headers))

    return one()


def check(service: Service, connection: http.client.HTTPConnection, asked: Asked, seen: Seen) -> None:
    """Send it, and hold the answer to what was promised."""
    headers = dict(asked.headers) | ({"Content-Type": "application/json"} if asked.body is not None else {})
    connection.request(asked.method, asked.path, asked.body, headers)
    answer = connection.getresponse()
    content = answer.read()
    kind = answer.getheader("content-type") or ""
    seen.statuses[answer.status] += 1
    assert 200 <= answer.status < 300 or 400 <= answer.status < 500, (answer.status, content[:300])
    code = ""
    if answer.status >= 400:
        assert kind == "application/json"
        error = json.loads(content)["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        code = error["code"]
        seen.codes[code] += 1
        assert (error["param"] is not None) == (code not in _FIELDLESS), error
        if code == "serve.bad_request":
            assert error["param"] in error["message"], error
            assert error["param"] != "body" or any(words in error["message"] for words in _NO_OBJECT), error
    elif kind.startswith("text/event-stream"):
        events = content.decode().split("\n\n")
        assert events[-1] == "" and (events[-2] == "data: [DONE]" or '"error"' in events[-2]), events[-2:]
    elif kind == "application/json":
        json.loads(content)
    if code not in _NOT_ROUTED:
        seen.routed += 1
        seen.requests[f"{asked.operation.method} {asked.operation.path}"] += 1


@contextmanager
def connected(service: Service) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def ask_every_length(service: Service) -> None:
    """A prompt of each length. PyTorch keeps what it makes for a length, about 2 MB, which would look like a leak."""
    for length in itertools.count(1):
        asked = chat_body(max_tokens=1, messages=[{"role": "user", "content": "7" * length}])
        if service.ask("POST", "/v1/chat/completions", asked).status != 200:  # the end of the context
            return


def test_any_request_is_answered_or_refused_by_name(service: Service, tally: Tally) -> None:
    description = Description(service.ask("GET", "/openapi.json").json)
    number = tally.amount(120, 10_000)
    seen = Seen()
    memory = []

    weights = [4 if operation.body is not None else 1 for operation in description.operations]

    def each(asked: Asked) -> None:
        check(service, connection, asked, seen)
        memory.append(service.rss_mb())

    with connected(service) as connection:
        if tally.full:
            ask_every_length(service)
        for operation, weight in zip(description.operations, weights, strict=True):
            share = math.ceil(number * weight / sum(weights))
            sized = settings(max_examples=share, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            seed(tally.seed)(sized(given(asked=requests(description, operation))(each)))()
    tally.count("fuzzed requests", sum(seen.statuses.values()))
    tally.count("fuzzed requests that reached a route", seen.routed)
    assert sum(seen.statuses.values()) >= number
    assert seen.routed >= 0.6 * number
    assert set(seen.requests) == {f"{each.method} {each.path}" for each in description.operations}
    assert min(seen.requests.values()) >= tally.amount(2, 100), seen.requests
    assert seen.statuses[200] and seen.statuses[201] and seen.statuses[400]
    assert service.process.pid == service.child.pid and service.child.alive
    assert service.ask("POST", "/v1/chat/completions", chat_body()).status == 200
    half = len(memory) // 2
    assert not tally.full or max(memory[half:]) - max(memory[:half]) < 64, "memory still grows in the second half"


def test_endless_new_schemas_fill_no_memory(service: Service, tally: Tally) -> None:
    number = tally.amount(60, 10_000)
    memory, seconds = [], []
    with connected(service) as connection:
        for turn in range(number):
            names = [f"{tally.random.getrandbits(64):x}" for _ in range(8)]
            schema = {
                "type": "object",
                "properties": {name: {"type": "string", "pattern": f"^{name}[a-z]{{1,9}}$"} for name in names},
                "required": names,
                "additionalProperties": False,
            }
            held = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            body = json.dumps(chat_body(max_tokens=1, response_format=held))
            started = time.monotonic()
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            answer.read()
            seconds.append(time.monotonic() - started)
            assert answer.status == 200
            if turn % 20 == 0:
                memory.append(service.rss_mb())
    tally.count("schemas never seen before", number)
    assert statistics.median(seconds) < 0.1
    tenth = len(memory) // 10
    assert not tally.full or max(memory) - max(memory[: 2 * tenth]) < 64


COSTLY = [
    {"type": "string", "pattern": "(a{1,500}){1,500}(b{1,500}){1,500}"},
    {"type": "string", "pattern": "(.*a){20}(.*b){20}(x|y|z){5,900}"},
    {"type": "string", "pattern": "([a-z]{1,300}[0-9]{1,300}){1,300}"},
    {"type": "string", "pattern": "((((a|b)*)*)*)*c"},
    {"type": "string", "maxLength": 10**9},
    {"type": "array", "minItems": 10**8, "items": {"type": "object"}},
    {"type": "array", "maxItems": 50_000, "items": {"type": "string", "maxLength": 5000}},
    {"anyOf": [{"type": "string", "pattern": f"^.*{number}.*{number}$"} for number in range(300)]},
    {"oneOf": [{"type": "object", "properties": {f"a{n}": {"type": "string"}}} for n in range(200)]},
    {"$ref": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(2000)}},
    {"enum": [f"value {n}" for n in range(3000)]},
    {"type": "integer", "minimum": -(10**18), "maximum": 10**18 - 7},
    {"allOf": [{"type": "object", "properties": {f"q{n}": {"minLength": n}}} for n in range(100)]},
]


def test_a_costly_schema_is_cut_off(service: Service, tally: Tally) -> None:
    """Refused, or answered: never for long, and with the next request served at its usual speed."""
    usual = min(_timed(service, chat_body()) for _ in range(5))
    slow = []
    for place, schema in enumerate(COSTLY):
        held = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        for extra in ({"response_format": held}, {"tools": [tool], "tool_choice": "required"}):
            seconds = _timed(service, chat_body(**extra))
            if seconds > 1.0:
                slow.append(f"schema {place} in {next(iter(extra))}: {seconds:.2f} s, usual {usual:.3f} s")
            tally.count("costly schemas")
    assert not slow, "\n".join(slow)


def _timed(service: Service, body: dict[str, Any]) -> float:
    started = time.monotonic()
    reply = service.ask("POST", "/v1/chat/completions", body)
    assert reply.status in (200, 400), reply.body
    return time.monotonic() - started
