"""A teacher behind an address: OpenAI's chat completions over HTTP.

The address and the name of the variable that holds the key are the recipe's; there is no default for either. Nothing
is sent anywhere else: redirects are errors, and proxies or passwords of the environment are not used.

Several prompts are asked at the same time, and answers come back in the order of the prompts, so what is kept of them
is the same whoever was faster. Where the service asks for a pause, nobody sends before it is over.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from itertools import islice
from threading import Condition, Event
from urllib.parse import urlsplit

import httpx

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.specs.hosted import HostedSpec
from tunesmith.tasks.taught import Asked, Said, openai_messages, tools_of

_LARGEST_ANSWER = 16 * 2**20
_LONGEST_PAUSE = 60.0
_FAILURES_IN_A_ROW = 3
"""Prompts in a row that got no answer for want of a service; then nobody is there, and the stage ends."""
_WRONG_FROM_US = {400, 413, 422}
"""This prompt is refused (too long, not allowed): another attempt gives the same."""
_TRY_AGAIN = {408, 409, 425, 429}
_TOO_MANY = 429


class _NobodyThereError(Exception):
    """No answer after all attempts."""


@dataclass(frozen=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Manners:
    """What those who ask at the same time have in common: nobody sends while the service wants a pause."""

    def __init__(self) -> None:
        self.stopped = Event()
        self._open = Condition()
        self._pauses = 0

    @contextmanager
    def pause_of_all(self) -> Iterator[None]:
        """Nobody sends inside."""
        with self._open:
            self._pauses += 1
        try:
            yield
        finally:
            with self._open:
                self._pauses -= 1
                self._open.notify_all()

    def wait_for_turn(self) -> None:
        """Return when no pause is wanted, or nobody is to go on."""
        with self._open:
            self._open.wait_for(lambda: not self._pauses or self.stopped.is_set())

    def stop(self) -> None:
        """Nobody begins another attempt."""
        with self._open:
            self.stopped.set()
            self._open.notify_all()


class HostedTeacher:
    """Asks `concurrency` prompts at a time.

    Args:
        model: the teacher's name there.
        wait: pauses for so many seconds; the default ends early when nobody wants the answers any more.

    Errors: tasks.teacher_no_key, tasks.teacher_plain_text.
    """

    def __init__(
        self, spec: HostedSpec, model: str, max_new_tokens: int, wait: Callable[[float], object] | None = None
    ) -> None:
        self._spec = spec
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._wait = wait
        self._headers = _headers(spec)
        self.identity = f"{spec.base_url} {model} {max_new_tokens}"
        self.refusal: TunesmithError | None = None
        """What the service said to the last prompt that it refused, as tasks.teacher_refuses."""

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said | None]]:
        """See `AnsweringTeacher`. Answers come in the order of the prompts.

        Errors: tasks.teacher_redirects, tasks.teacher_refuses, tasks.teacher_unreachable; what was already asked for is
        answered before one is raised.
        """
        limits, manners = httpx.Timeout(self._spec.timeout_seconds), _Manners()
        pool = ThreadPoolExecutor(self._spec.concurrency, thread_name_prefix="teacher")
        with httpx.Client(timeout=limits, headers=self._headers, follow_redirects=False, trust_env=False) as client:

            def ask(each: Asked) -> Future[Said | None]:
                return pool.submit(self._answer, client, manners, each)

            try:
                yield from self._in_order(asked, ask, manners)
            finally:
                manners.stop()
                pool.shutdown(wait=False, cancel_futures=True)

    def _in_order(
        self, asked: Sequence[Asked], ask: Callable[[Asked], Future[Said | None]], manners: _Manners
    ) -> Iterator[tuple[int, Said | None]]:
        left = iter(asked)
        under_way = deque(map(ask, islice(left, self._spec.concurrency)))
        failures = answered = 0
        for place in range(len(asked)):
            try:
                said = under_way.popleft().result()
                failures, answered = 0, answered + (said is not None)
            except _NobodyThereError as error:
                said, failures = None, failures + 1
                if failures >= min(_FAILURES_IN_A_ROW, len(asked)):
                    yield from _still_coming(under_way, manners, place + 1)
                    raise TunesmithError(
                        "tasks.teacher_unreachable", url=self._spec.base_url, reason=str(error), answered=answered
                    ) from error
            except TunesmithError:
                yield from _still_coming(under_way, manners, place + 1)
                raise
            yield place, said
            under_way.extend(map(ask, islice(left, 1)))

    def _answer(self, client: httpx.Client, manners: _Manners, asked: Asked) -> Said | None:
        """One answer; None where this prompt is refused."""
        question: dict[str, object] = {
            "model": self._model,
            "messages": openai_messages(asked.messages),
            "max_tokens": self._max_new_tokens,
            "temperature": 0,
        }
        tools = tools_of(asked.tools)
        if tools:
            question["tools"] = tools
        reason = "-"
        for attempt in range(self._spec.tries):
            manners.wait_for_turn()
            if manners.stopped.is_set():
                break
            pause, of_all = min(2.0**attempt, _LONGEST_PAUSE), False
            try:
                response = self._post(client, question)
                if response.status in _WRONG_FROM_US:
                    self.refusal = self._refuses(response)
                    return None
                said = self._said(response)
                if said is not None:
                    return said
                reason, stated = _why_again(response.status), _stated_pause(response.headers)
                pause, of_all = pause if stated is None else stated, response.status == _TOO_MANY or stated is not None
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = f"{type(error).__name__}: {error}"[:200]
            if attempt + 1 < self._spec.tries:
                self._pause(manners, pause, of_all=of_all)
        raise _NobodyThereError(reason)

    def _pause(self, manners: _Manners, seconds: float, *, of_all: bool) -> None:
        wait = self._wait or manners.stopped.wait
        with manners.pause_of_all() if of_all else nullcontext():
            wait(seconds)

    def _post(self, client: httpx.Client, question: dict[str, object]) -> _Response:
        """Send a question and read what comes back, up to a size and up to a time."""
        latest = time.monotonic() + self._spec.timeout_seconds
        with client.stream("POST", f"{self._spec.base_url.rstrip('/')}/chat/completions", json=question) as response:
            body = bytearray()
            for part in response.iter_bytes():
                body += part
                if len(body) > _LARGEST_ANSWER or time.monotonic() > latest:
                    raise httpx.ReadTimeout("too much or too slow")
        return _Response(response.status_code, response.headers, bytes(body))

    def _refuses(self, response: _Response) -> TunesmithError:
        said = response.body[:200].decode("utf-8", "replace").replace("\n", " ")
        return TunesmithError("tasks.teacher_refuses", url=self._spec.base_url, status=response.status, said=said)

    def _said(self, response: _Response) -> Said | None:
        """The answer in a response; None where another attempt may bring one.

        Errors: tasks.teacher_redirects, tasks.teacher_refuses.
        """
        status = response.status
        if 300 <= status < 400:
            to = response.headers.get("location", "-")
            raise TunesmithError("tasks.teacher_redirects", url=self._spec.base_url, to=to[:200])
        if 400 <= status < 500 and status not in _TRY_AGAIN:
            raise self._refuses(response)
        if status >= 400:
            return None
        try:
            choice = json.loads(response.body)["choices"][0]
            text = choice["message"]["content"]
            finished = choice.get("finish_reason") != "length"
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        # A service may say nothing but call a tool, or send half of a character: neither can be learned.
        return Said(text if isinstance(text, str) and _is_text(text) else "", finished)


def _why_again(status: int) -> str:
    """What another attempt may mend, in few words: a page of a proxy comes as HTTP 200 too."""
    return f"HTTP {status}" if status >= 400 else f"HTTP {status} without choices[0].message.content"


def _still_coming(
    under_way: Sequence[Future[Said | None]], manners: _Manners, place: int
) -> Iterator[tuple[int, Said | None]]:
    """Answers to what was already sent: they are paid for, so they are kept."""
    manners.stop()
    for later, each in enumerate(under_way, place):
        with suppress(CancelledError, _NobodyThereError, TunesmithError):
            said = None if each.cancel() else each.result()
            if said is not None:
                yield later, said


def _headers(spec: HostedSpec) -> dict[str, str]:
    """The key's header. Errors: tasks.teacher_no_key, tasks.teacher_plain_text."""
    if not spec.key_variable:
        return {}
    key = os.environ.get(spec.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise TunesmithError("tasks.teacher_no_key", variable=spec.key_variable)
    parts = urlsplit(spec.base_url)
    if parts.scheme == "http" and not _is_this_machine(parts.hostname or ""):
        raise TunesmithError("tasks.teacher_plain_text", url=spec.base_url, variable=spec.key_variable)
    return {"Authorization": f"Bearer {key}"}


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_text(text: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _stated_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that the service asks to wait, within reason; it may state them, or the moment (RFC 9110, 10.2.3)."""
    stated = headers.get("retry-after", "")
    try:
        seconds = float(stated)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(stated).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if math.isfinite(seconds) else None
