"""A teacher behind an address: OpenAI's chat completions over HTTP.

The address and the name of the variable that holds the key are the recipe's; there is no default for either. Nothing
is sent anywhere else: redirects are errors, and proxies or passwords of the environment are not used.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

import httpx

from tunesmith.core.errors import TunesmithError
from tunesmith.recipe.specs.objectives import HostedSpec
from tunesmith.tasks.taught import Asked, Said, openai_messages, tools_of

_LARGEST_ANSWER = 16 * 2**20
_LONGEST_PAUSE = 60.0
_FAILURES_IN_A_ROW = 3
"""Prompts in a row that got no answer for want of a service; then nobody is there, and the stage ends."""
_WRONG_FROM_US = {400, 413, 422}
"""This prompt is refused (too long, not allowed): another attempt gives the same."""
_TRY_AGAIN = {408, 409, 425, 429}


class _NobodyThereError(Exception):
    """No answer after all attempts."""


@dataclass(frozen=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class HostedTeacher:
    """Asks one prompt after the other.

    Args:
        model: the teacher's name there.
        wait: pauses for so many seconds.

    Errors: tasks.teacher_no_key, tasks.teacher_plain_text.
    """

    def __init__(
        self, spec: HostedSpec, model: str, max_new_tokens: int, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._spec = spec
        self._model = model
        self._max_new_tokens = max_new_tokens
        self._wait = wait
        self._headers = _headers(spec)
        self.identity = f"{spec.base_url} {model} {max_new_tokens}"

    def answers(self, asked: Sequence[Asked]) -> Iterator[tuple[int, Said | None]]:
        """See `AnsweringTeacher`.

        Errors: tasks.teacher_redirects, tasks.teacher_refuses, tasks.teacher_unreachable.
        """
        failures = 0
        limits = httpx.Timeout(self._spec.timeout_seconds)
        with httpx.Client(timeout=limits, headers=self._headers, follow_redirects=False, trust_env=False) as client:
            for place, each in enumerate(asked):
                try:
                    said = self._answer(client, each)
                    failures = 0
                except _NobodyThereError as error:
                    said, failures = None, failures + 1
                    if failures >= min(_FAILURES_IN_A_ROW, len(asked)):
                        raise TunesmithError(
                            "tasks.teacher_unreachable", url=self._spec.base_url, reason=str(error), answered=place
                        ) from error
                yield place, said

    def _answer(self, client: httpx.Client, asked: Asked) -> Said | None:
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
        reason = ""
        for attempt in range(self._spec.tries):
            pause = min(2.0**attempt, _LONGEST_PAUSE)
            try:
                response = self._post(client, question)
                if response.status in _WRONG_FROM_US:
                    return None
                said = self._said(response)
                if said is not None:
                    return said
                reason = f"HTTP {response.status}"
                pause = _stated_pause(response.headers, pause)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = f"{type(error).__name__}: {error}"[:200]
            if attempt + 1 < self._spec.tries:
                self._wait(pause)
        raise _NobodyThereError(reason)

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

    def _said(self, response: _Response) -> Said | None:
        """The answer in a response; None where another attempt may bring one.

        Errors: tasks.teacher_redirects, tasks.teacher_refuses.
        """
        status = response.status
        if 300 <= status < 400:
            to = response.headers.get("location", "-")
            raise TunesmithError("tasks.teacher_redirects", url=self._spec.base_url, to=to[:200])
        if 400 <= status < 500 and status not in _TRY_AGAIN:
            said = response.body[:200].decode("utf-8", "replace").replace("\n", " ")
            raise TunesmithError("tasks.teacher_refuses", url=self._spec.base_url, status=status, said=said)
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


def _stated_pause(headers: Mapping[str, str], otherwise: float) -> float:
    """Seconds that the service asks to wait, within reason."""
    try:
        return min(max(float(headers["retry-after"]), 0.0), _LONGEST_PAUSE)
    except (KeyError, ValueError):
        return otherwise
