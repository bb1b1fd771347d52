"""From the engine's tokens to the objects of OpenAI's API, whole or as a stream of pieces."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.core.types import ToolCall
from tunesmith.models.generate import Completion, Progress
from tunesmith.models.sampling import Chosen
from tunesmith.serve.api_errors import error_body
from tunesmith.serve.engine import Deliver, Engine, Work
from tunesmith.serve.questions import Question
from tunesmith.serve.tool_calls import find_tool_calls

_LEAST_LOGPROB = -9999.0

Event = tuple[int, Progress | TunesmithError]


@dataclass(frozen=True)
class Head:
    """What all pieces of one answer share."""

    id: str
    created: int
    model: str

    @classmethod
    def new(cls, model: str) -> Head:
        """A head with a fresh id."""
        return cls(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), model)

    def body(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        """An object of the API."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class Asking:
    """A question in the engine's hands; `events` gives what comes back, `cancel` gives it up."""

    def __init__(self, engine: Engine, question: Question) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._open = len(question.settings)
        works = [
            Work(question.prompt, settings, constraint, self._deliver(place))
            for place, (settings, constraint) in enumerate(zip(question.settings, question.constraints, strict=True))
        ]
        self._tickets = engine.submit(works)

    def _deliver(self, place: int) -> Deliver:
        def deliver(item: Progress | TunesmithError) -> None:
            try:
                self._loop.call_soon_threadsafe(self._queue.put_nowait, (place, item))
            except RuntimeError:  # the server's loop has ended: nobody waits for this answer
                pass

        return deliver

    def cancel(self) -> None:
        """Give the question up; does nothing once it is answered."""
        self._engine.cancel(self._tickets)

    async def events(self) -> AsyncIterator[tuple[int, Progress]]:
        """Each choice's tokens as they come; raises the engine's error."""
        while self._open:
            place, item = await self._queue.get()
            if isinstance(item, TunesmithError):
                raise item
            if item.completion is not None:
                self._open -= 1
            yield place, item


class Teller:
    """Writes answers of one model."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, emitter: Emitter) -> None:
        self._tokenizer = tokenizer
        self._emitter = emitter

    async def whole(self, asking: Asking, question: Question, head: Head) -> dict[str, object]:
        """The answer as one object."""
        completions: dict[int, Completion] = {}
        async for place, progress in asking.events():
            if progress.completion is not None:
                completions[place] = progress.completion
        choices = [self._choice(place, completions[place], question) for place in range(len(completions))]
        tokens = sum(len(each.token_ids) for each in completions.values())
        return {**head.body("chat.completion", choices), "usage": _usage(question, tokens)}

    def _choice(self, place: int, completion: Completion, question: Question) -> dict[str, object]:
        text, calls = _split(completion.text, question)
        message: dict[str, object] = {"role": "assistant", "content": text or None if calls else text, "refusal": None}
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        return {
            "index": place,
            "message": message,
            "logprobs": self._logprobs(completion.chosen),
            "finish_reason": _reason(completion, calls),
        }

    async def stream(self, asking: Asking, question: Question, head: Head, *, with_usage: bool) -> AsyncIterator[str]:
        """The answer as server-sent events, an error as the last of them.

        Where tools are offered, the text is sent when it is whole.
        """
        tokens = 0

        def piece(place: int, delta: dict[str, object], logprobs: object = None, reason: str | None = None) -> str:
            choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            return _event(head.body("chat.completion.chunk", [choice]))

        try:
            for place in range(len(question.settings)):
                yield piece(place, {"role": "assistant", "content": ""})
            async for place, progress in asking.events():
                completion = progress.completion
                logprobs = self._logprobs([progress.chosen]) if not _ended_by_token(progress) else None
                if not question.tool_names and (progress.text or logprobs):
                    yield piece(place, {"content": progress.text}, logprobs)
                if completion is not None:
                    tokens += len(completion.token_ids)
                    text, calls = _split(completion.text, question)
                    if question.tool_names and text:
                        yield piece(place, {"content": text}, self._logprobs(completion.chosen))
                    if calls:
                        listed = [{"index": number, **_call(call)} for number, call in enumerate(calls)]
                        yield piece(place, {"tool_calls": listed})
                    yield piece(place, {}, reason=_reason(completion, calls))
            if with_usage:
                yield _event({**head.body("chat.completion.chunk", []), "usage": _usage(question, tokens)})
            yield "data: [DONE]\n\n"
        except TunesmithError as error:
            yield _event(error_body(error))
        except Exception as error:  # what has begun ends with a word: nobody else can say one any more
            self._emitter.emit("alarm", code="serve.route_fault", reason=f"{type(error).__name__}: {error}"[:500])
            yield _event(error_body(TunesmithError("serve.route_fault", reason=type(error).__name__)))

    def _logprobs(self, chosen: Sequence[Chosen]) -> dict[str, object] | None:
        listed = [each for each in chosen if each.logprob is not None]
        if not listed:
            return None
        return {
            "content": [
                {
                    **self._token(each.token_id, each.logprob or 0.0),
                    "top_logprobs": [self._token(other.token_id, other.logprob) for other in each.top],
                }
                for each in listed
            ],
            "refusal": None,
        }

    def _token(self, token_id: int, logprob: float) -> dict[str, object]:
        text = str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
        return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(text.encode())}


def _ended_by_token(progress: Progress) -> bool:
    return progress.completion is not None and progress.completion.end_token_id is not None


def _split(text: str, question: Question) -> tuple[str, tuple[ToolCall, ...]]:
    return find_tool_calls(text, question.tool_names) if question.tool_names else (text, ())


def _call(call: ToolCall) -> dict[str, object]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _reason(completion: Completion, calls: Sequence[ToolCall]) -> str:
    return "tool_calls" if calls else completion.finish_reason


def _usage(question: Question, answer_tokens: int) -> dict[str, int]:
    prompt = len(question.prompt)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer_tokens,
        "total_tokens": prompt + answer_tokens,
    }


def _event(body: dict[str, object]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
