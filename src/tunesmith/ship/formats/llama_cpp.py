"""llama.cpp as the judge of a GGUF file: its own tokenizer, its own template engine, its own arithmetic.

The judge runs in a child process (`llama_child.py`) and is asked over loopback HTTP. A crash, a hang and a missing
library each become an error with a code.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

from tunesmith.core.errors import TunesmithError
from tunesmith.core.process import available_cores

SLOTS = 8
"""Answers that llama.cpp grows together: on two cores eight give twice the tokens a second of one."""

_START_SECONDS = 120.0
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer:
    """What a model said: its text, and its token ids with the end token if it came to one."""

    text: str
    tokens: tuple[int, ...]


class LlamaJudge:
    """A GGUF file running in llama.cpp. Use it as a context manager.

    Args:
        path: the file.
        context: longest prompt and answer together, in tokens.
        seconds: after this long every call fails with ship.judge_failed.

    Errors: ship.judge_missing, ship.judge_failed.
    """

    def __init__(self, path: Path, *, context: int, seconds: float = 600.0, slots: int = SLOTS) -> None:
        self._path = path
        self._settings = {"path": str(path), "context": context, "slots": slots, "threads": available_cores()}
        self._deadline = time.monotonic() + seconds
        self._process: subprocess.Popen[str] | None = None
        self._address = ""
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self.slots = slots

    def __enter__(self) -> LlamaJudge:
        if find_spec("xllamacpp") is None:
            self._log.close()
            raise TunesmithError("ship.judge_missing", command="pip install xllamacpp")
        command = [sys.executable, "-P", "-m", "tunesmith.ship.formats.llama_child", json.dumps(self._settings)]
        # its threads must not spin while they wait: on a busy machine that made it fifty times slower
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        try:
            self._address = self._first_line()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _first_line(self) -> str:
        process = self._process
        if process is None or process.stdout is None:
            raise RuntimeError("the judge was not started")
        stdout = process.stdout
        lines: queue.Queue[str] = queue.Queue()

        def read() -> None:
            for line in stdout:
                lines.put(line)

        threading.Thread(target=read, daemon=True).start()
        limit = min(self._deadline, time.monotonic() + _START_SECONDS)
        while time.monotonic() < limit:
            try:
                line = lines.get(timeout=0.1)
            except queue.Empty:
                if process.poll() is not None:
                    raise self._failed(f"ended with {process.returncode} while loading") from None
                continue
            if line.startswith("{"):
                return str(json.loads(line)["address"])
        raise self._failed("did not start in time")

    def _stop(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self._log.close()

    def _failed(self, reason: str) -> TunesmithError:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return TunesmithError(
            "ship.judge_failed", path=self._path.name, reason=reason, said=" | ".join(lines[-2:])[-400:] or "-"
        )

    def _post(self, route: str, body: dict[str, object]) -> dict[str, object]:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._failed("took too long")
        address = urlsplit(self._address)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=left)
        try:
            connection.request("POST", route, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._failed(f"{route}: {str(error) or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status != 200 or not isinstance(answer, dict):
            raise self._failed(f"{route}: {str(answer)[:200]}")
        return answer

    def render(self, messages: Sequence[dict[str, object]], *, ask: bool) -> str:
        """The conversation as text, by llama.cpp's own engine and the template in the file."""
        body: dict[str, object] = {"messages": list(messages), "add_generation_prompt": ask}
        return str(self._post("/apply-template", body)["prompt"])

    def tokenize(self, text: str) -> list[int]:
        """Token ids as llama.cpp takes a prompt: what it would add by itself is added, control tokens are seen."""
        found = self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
        return [int(str(each)) for each in found] if isinstance(found, list) else []

    def best_tokens(
        self, prompt: Sequence[int], answer: Sequence[int], broken: frozenset[int] = frozenset()
    ) -> list[int]:
        """The most likely next token at every position of an answer that is forced upon the model.

        A grammar that allows nothing but the tokens of a stretch forces them; the probabilities reported are those
        before the grammar. A stretch ends before a token of `broken`: the grammar cannot follow tokens that hold
        part of a character, so they enter with the prompt of the next stretch. The last token of the answer is
        never forced, only predicted.

        Args:
            prompt, answer: token ids; the answer ends with its end token, or is cut.
            broken: token ids that are no whole text by themselves.

        Returns: len(answer) token ids, the k-th given the prompt and answer[:k].
        """
        found: list[int] = []
        while len(found) < len(answer):
            first = last = len(found)
            while last < len(answer) - 1 and answer[last] not in broken:
                last += 1
            found += self._stretch([*prompt, *answer[:first]], answer[first:last])
        return found

    def _stretch(self, prompt: Sequence[int], forced: Sequence[int]) -> list[int]:
        """The most likely tokens at the positions of `forced` and at the one after it."""
        body: dict[str, object] = {
            "prompt": list(prompt),
            "n_predict": len(forced) + 1,
            "temperature": 0,
            "n_probs": 1,
            "cache_prompt": True,
            # behind the forced tokens only an end token is allowed, whatever the model would say
            "grammar": "root ::= " + (" ".join(f"<[{token}]>" for token in forced) or '""'),
        }
        answer = self._post("/completion", body).get("completion_probabilities")
        rows = answer if isinstance(answer, list) else []
        if len(rows) != len(forced) + 1 or [row["id"] for row in rows[:-1]] != list(forced):
            raise self._failed(f"/completion followed {len(rows)} of {len(forced) + 1} forced tokens")
        return [int(row["top_logprobs"][0]["id"]) for row in rows]

    def answer(self, prompt: Sequence[int], max_new_tokens: int) -> Answer:
        """The greedy answer to a prompt."""
        body: dict[str, object] = {
            "prompt": list(prompt),
            "n_predict": max_new_tokens,
            "samplers": ["top_k"],
            "top_k": 1,
            "cache_prompt": True,
            "return_tokens": True,
        }
        found = self._post("/completion", body)
        tokens = found["tokens"]
        return Answer(str(found["content"]), tuple(int(each) for each in tokens) if isinstance(tokens, list) else ())

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item], done: Callable[[int], None] | None = None
    ) -> list[Result]:
        """`work` for every item, as many at a time as the judge has slots, results in the order of the items."""
        results: list[Result] = []
        pool = ThreadPoolExecutor(self.slots)
        try:
            for result in pool.map(work, items):
                results.append(result)
                if done is not None:
                    done(len(results))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return results
