"""Whatever is sent, the answer is an error in OpenAI's form and the next request is served."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pytest

ASK = [{"role": "user", "content": "hello"}]


def body(**changes: object) -> str:
    return json.dumps({"model": "tiny", "messages": ASK, "max_tokens": 3, **changes})


def schema(value: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}


TABLE: list[tuple[str, int, str]] = [
    ("", 400, "serve.bad_request"),
    ("{", 400, "serve.bad_request"),
    ("[]", 400, "serve.bad_request"),
    ("null", 400, "serve.bad_request"),
    ('"\\ud800"', 400, "serve.bad_request"),
    ("[" * 100_000, 400, "serve.too_deep"),
    ('{"a":' * 65 + "1" + "}" * 65, 400, "serve.too_deep"),
    ("[" + "1," * 60_000 + "1]", 400, "serve.too_many_values"),
    ('"' * 200_000, 400, "serve.bad_request"),
    ("{}", 400, "serve.bad_request"),
    (body(model=3), 400, "serve.bad_request"),
    (body(model="other"), 404, "serve.unknown_model"),
    (body(messages=[]), 400, "serve.bad_request"),
    (body(messages="hi"), 400, "serve.bad_request"),
    (body(messages=[{"role": "wizard", "content": "x"}]), 400, "serve.bad_request"),
    (body(messages=[{"role": "user"}]), 400, "serve.bad_request"),
    (body(messages=[{"role": "user", "content": 5}]), 400, "serve.bad_request"),
    (body(messages=[{"role": "user", "content": ""}]), 400, "serve.empty_prompt"),
    (body(messages=[{"role": "user", "content": "  \n"}]), 400, "serve.empty_prompt"),
    (
        body(
            messages=[
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254"}}]}
            ]
        ),
        400,
        "serve.bad_request",
    ),
    (body(messages=[{"role": "user", "content": "long " * 3000}]), 400, "serve.context_too_long"),
    (body(n=10**9), 400, "serve.bad_request"),
    (body(n=0), 400, "serve.bad_request"),
    (body(n=True), 400, "serve.bad_request"),
    (body(n=10**400), 400, "serve.bad_request"),
    (body(seed=2**70), 400, "serve.bad_request"),
    (body(temperature=float("nan")), 400, "serve.bad_request"),
    (body(temperature=float("inf")), 400, "serve.bad_request"),
    (body(temperature=-1), 400, "serve.bad_request"),
    (body(temperature="hot"), 400, "serve.bad_request"),
    (body(top_p=0), 400, "serve.bad_request"),
    (body(max_tokens=0), 400, "serve.bad_request"),
    (body(max_tokens=1.5), 400, "serve.bad_request"),
    (body(max_tokens=10**6), 400, "serve.answer_too_long"),
    (body(stop=["a"] * 100), 400, "serve.bad_request"),
    (body(stop=""), 400, "serve.bad_request"),
    (body(top_logprobs=2), 400, "serve.bad_request"),
    (body(logprobs=True, top_logprobs=99), 400, "serve.bad_request"),
    (body(frequency_penalty=1.0), 400, "serve.bad_request"),
    (body(logit_bias={"5": 100}), 400, "serve.bad_request"),
    (body(no_such_field=1), 400, "serve.bad_request"),
    (body(**{"": 1}), 400, "serve.bad_request"),
    (body(tool_choice="required"), 400, "serve.bad_request"),
    (body(tools=[{"type": "function", "function": {"name": "bad name!"}}]), 400, "serve.bad_request"),
    (
        body(
            tools=[{"type": "function", "function": {"name": "f"}}],
            tool_choice={"type": "function", "function": {"name": "g"}},
        ),
        400,
        "serve.bad_request",
    ),
    (
        body(
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "banana"}}}],
            tool_choice="required",
        ),
        400,
        "serve.bad_schema",
    ),
    (body(response_format={"type": "xml"}), 400, "serve.bad_request"),
    (body(response_format={"type": "json_schema"}), 400, "serve.bad_request"),
    (body(response_format=schema({"type": "banana"})), 400, "serve.bad_schema"),
    (body(response_format=schema({"$ref": "http://169.254.169.254/"})), 400, "serve.bad_schema"),
    (body(response_format=schema({"type": "string", "pattern": "(a"})), 400, "serve.bad_schema"),
    (body(response_format=schema({"allOf": [{"type": "string"}, {"type": "number"}]})), 400, "serve.bad_schema"),
    (body(response_format=schema({"enum": ["x" * 100_000]})), 400, "serve.schema_too_large"),
    (body(response_format=schema({"const": float("nan")})), 400, "serve.bad_schema"),
    (body(response_format=schema({"type": "number", "maximum": float("inf")})), 400, "serve.bad_schema"),
    (body(response_format=schema({"type": "number", "maximum": 10**400})), 400, "serve.bad_schema"),
    (
        body(
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"const": float("nan")}}}],
            tool_choice="required",
        ),
        400,
        "serve.bad_schema",
    ),
    (body(messages=[{"role": "user", "content": "x" * 2**20}]), 413, "serve.body_too_large"),
]


@pytest.mark.parametrize(("sent", "status", "code"), TABLE, ids=[f"{row[2]}-{row[0][-60:]}" for row in TABLE])
def test_bad_input_gets_an_error_in_openais_form(http: httpx.Client, sent: str, status: int, code: str) -> None:
    started = time.monotonic()
    answer = http.post("/v1/chat/completions", content=sent, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and len(error["message"]) < 1500
    assert time.monotonic() - started < 3


COSTLY = [
    {"type": "string", "pattern": "(a{1,500}){1,500}(b{1,500}){1,500}"},
    {"type": "string", "pattern": "(.*a){20}(.*b){20}(x|y|z){5,900}"},
    {"type": "string", "maxLength": 10**9},
    {"type": "array", "minItems": 10**8, "items": {"type": "object"}},
    {"anyOf": [{"type": "string", "pattern": f"^.*{i}.*{i}$"} for i in range(300)]},
    {"$ref": "#"},
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2000)}},
]


@pytest.mark.parametrize("value", COSTLY, ids=[str(place) for place in range(len(COSTLY))])
def test_a_costly_schema_cannot_hold_the_server(http: httpx.Client, value: dict[str, object]) -> None:
    started = time.monotonic()
    answer = http.post("/v1/chat/completions", content=body(response_format=schema(value)))
    assert answer.status_code in (200, 400), answer.text
    assert time.monotonic() - started < 5
    assert http.post("/v1/chat/completions", content=body()).status_code == 200


def test_the_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=ASK)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "long " * 3000}])
    assert caught.value.code == "serve.context_too_long"
    assert "512" in caught.value.message
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


def test_other_paths_methods_and_hosts(http: httpx.Client) -> None:
    for method, path, status, code in (
        ("GET", "/nothing", 404, "serve.unknown_path"),
        ("GET", "/docs", 404, "serve.unknown_path"),
        ("GET", "/v1/chat/completions", 405, "serve.wrong_method"),
        ("GET", "/v1/models/none", 404, "serve.unknown_model"),
    ):
        answer = http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    rebound = http.get("/v1/models", headers={"Host": "evil.example:8000"})
    assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "serve.host_refused")
    assert http.get("/health", headers={"Authorization": ""}).json() == {"status": "ok"}
    for path in ("/v1/models", "/metrics", "/nothing"):
        assert http.get(path, headers={"Authorization": ""}).status_code == 401


def test_marks_inside_text_are_no_structure(http: httpx.Client) -> None:
    text = "[{,\\" * 20_000 + "]"
    answer = http.post("/v1/chat/completions", content=body(messages=[{"role": "user", "content": text}]))
    assert answer.json()["error"]["code"] == "serve.context_too_long"


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Content-Type", "application/json", 200),
        ("Content-Type", "Application/JSON; charset=UTF-8", 200),
        ("Content-Type", 'application/json;charset="utf8"', 200),
        ("Content-Type", "application/json; charset=gbk", 415),
        ("Content-Type", "text/plain", 415),
        ("Content-Type", "multipart/form-data; boundary=x", 415),
        ("Content-Encoding", "identity", 200),
        ("Content-Encoding", "gzip", 415),
    ],
)
def test_bodies_are_plain_json(http: httpx.Client, name: str, value: str, status: int) -> None:
    answer = http.post("/v1/chat/completions", content=body(), headers={name: value})
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["error"]["param"] == name


def test_a_body_without_a_length_is_cut_off_too(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", content=(b" " * 65536 for _ in range(40)))
    assert answer.status_code == 413
