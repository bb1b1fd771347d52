"""The official client against a real server on loopback."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jsonschema
import openai
import pytest
import torch

from tunesmith.models.generate import Decoder, GenerateSettings, Progress, generate
from tunesmith.models.load import load_model
from tunesmith.serve.server import Server

ASK: list[dict[str, str]] = [{"role": "user", "content": "Where is my parcel? 你好"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["refund", "order"]},
        "urgent": {"type": "boolean"},
        "order": {"type": ["string", "null"], "maxLength": 8},
    },
    "required": ["intent", "urgent", "order"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Finds an order.",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "integer", "minimum": 0, "maximum": 999}},
                "required": ["number"],
                "additionalProperties": False,
            },
        },
    }
]


def metric(http: httpx.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "tunesmith"


def test_the_answer_is_the_models_own(client: openai.OpenAI, model_folder: Path) -> None:
    answer = client.chat.completions.create(model="tiny", messages=ASK, max_tokens=12)
    loaded = load_model(model_folder, dtype=torch.float32)
    text = f"<|im_start|>user\n{ASK[0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    prompt = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    settings = GenerateSettings(12, end_token_ids=loaded.end_token_ids)
    expected = generate(loaded.model, loaded.tokenizer, [prompt], settings)[0]
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), len(expected.token_ids))


def test_a_stream_gives_the_same_text(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 40}
    whole = client.chat.completions.create(**asked)
    pieces = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert sum(bool(piece.choices) for piece in pieces) > 5
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].usage == whole.usage


def test_stop_choices_and_seed(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 30}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    stop = whole[6:9]
    cut = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(stop)], "stop")
    drawn = {"n": 3, "seed": 7, "temperature": 1.2, "top_p": 0.95}
    first, second = (client.chat.completions.create(**asked, **drawn) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(client: openai.OpenAI, stream: bool) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 5, "logprobs": True, "top_logprobs": 2}
    if stream:
        pieces = client.chat.completions.create(**asked, stream=True)
        found = [each for p in pieces if p.choices[0].logprobs for each in p.choices[0].logprobs.content or []]
    else:
        logprobs = client.chat.completions.create(**asked).choices[0].logprobs
        found = list(logprobs.content or []) if logprobs else []
    assert len(found) == 5
    for token in found:
        assert token.logprob <= 0
        assert token.top_logprobs[0].logprob == token.logprob  # greedy: the chosen token is the likeliest
        assert token.top_logprobs[1].logprob <= token.logprob
        assert bytes(token.bytes or []).decode() == token.token


@pytest.mark.parametrize("seed", range(4))
def test_json_schema_holds_for_a_random_model(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        max_tokens=200,
        temperature=1.5,
        seed=seed,
        response_format={"type": "json_schema", "json_schema": {"name": "ticket", "schema": SCHEMA, "strict": True}},
    ).choices[0]
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.message.content or ""), SCHEMA)


def test_json_object_begins_as_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, max_tokens=60, response_format={"type": "json_object"}
    ).choices[0]
    text = answer.message.content or ""
    assert text.startswith("{")
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find_order"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_is_called(client: openai.OpenAI, stream: bool, choice: object) -> None:
    asked = {"model": "tiny", "messages": ASK, "max_tokens": 150, "tools": TOOLS, "tool_choice": choice}
    if stream:
        pieces = list(client.chat.completions.create(**asked, stream=True))
        calls = [call for piece in pieces for call in piece.choices[0].delta.tool_calls or []]
        reason = pieces[-1].choices[0].finish_reason
    else:
        answer = client.chat.completions.create(**asked).choices[0]
        calls, reason = answer.message.tool_calls or [], answer.finish_reason
        assert answer.message.content is None
    assert reason == "tool_calls"
    assert calls[0].function.name == "find_order"
    assert set(json.loads(calls[0].function.arguments)) == {"number"}
    again = [
        *ASK,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "find_order", "arguments": '{"number": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sent on Monday"},
    ]
    assert client.chat.completions.create(model="tiny", messages=again, max_tokens=3, tools=TOOLS).choices


def test_many_clients_at_once_get_what_each_would_get_alone(client: openai.OpenAI) -> None:
    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"Question {number} " + "why? " * number}]
        answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=25)
        return answer.choices[0].message.content or ""

    alone = [ask(number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def wait_until_idle(http: httpx.Client) -> None:
    deadline = time.monotonic() + 5
    while metric(http, "tunesmith_in_flight") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(http, "tunesmith_in_flight") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(
    http: httpx.Client, client: openai.OpenAI, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until_idle(http)
    before = metric(http, "tunesmith_answer_tokens_total")
    body = {"model": "tiny", "messages": ASK, "max_tokens": 200, "n": 4, "stream": stream, "temperature": 0.5}
    whole_step = Decoder.step

    def slow_step(self: Decoder) -> list[Progress]:
        time.sleep(0.02)
        return whole_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", slow_step)
        if stream:
            with http.stream("POST", "/v1/chat/completions", json=body) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, timeout=0.2)
        started = time.monotonic()
        wait_until_idle(http)
        assert time.monotonic() - started < 2  # all 200 tokens would take four seconds
    assert metric(http, "tunesmith_answer_tokens_total") == before  # counted when an answer ends: none did
    assert client.chat.completions.create(model="tiny", messages=ASK, max_tokens=3).choices


def test_a_full_queue_says_when_to_come_back(http: httpx.Client) -> None:
    body = {"model": "tiny", "messages": ASK, "max_tokens": 200, "n": 8, "temperature": 1.0}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/chat/completions", json=body), range(6)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and len(refused) < 6
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["code"] == "serve.queue_full"


def test_a_fault_in_the_model_ends_one_answer_and_not_the_server(
    server: Server, http: httpx.Client, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Decoder) -> list[object]:
        raise RuntimeError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "step", broken)
        answer = http.post("/v1/chat/completions", json={"model": "tiny", "messages": ASK})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "serve.model_fault")
    assert client.chat.completions.create(model="tiny", messages=ASK, max_tokens=3).choices
