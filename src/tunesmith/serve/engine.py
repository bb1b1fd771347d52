"""One thread owns the model: requests come in by a queue, join the running batch, and their tokens go out by callback.

A fault in a forward pass ends the answers that were under way, each with an error; the next ones are served. Where not
even that is possible any more, everybody is told so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Emitter
from tunesmith.models.generate import Decoder, Progress, generating
from tunesmith.models.load import Loaded
from tunesmith.models.sampling import GenerateSettings
from tunesmith.serve.api_errors import RequestError
from tunesmith.serve.constrain import JsonConstraint
from tunesmith.serve.measures import Measures

Deliver = Callable[[Progress | TunesmithError], None]


@dataclass
class Work:
    """One answer to give. `deliver` is called from the engine's thread, the last time with a completion or an error."""

    prompt: Sequence[int]
    settings: GenerateSettings
    constraint: JsonConstraint | None
    deliver: Deliver
    submitted: float = field(default_factory=time.monotonic)


class Engine:
    """Answers many requests with one model.

    Args:
        loaded: the model; nobody else may use it meanwhile.
        max_batch: answers that grow together.
        max_queue: answers that may wait beyond those.
    """

    def __init__(self, loaded: Loaded, *, max_batch: int, max_queue: int, measures: Measures, emitter: Emitter) -> None:
        self._loaded = loaded
        self._max_batch = max_batch
        self._most = max_batch + max_queue
        self._measures = measures
        self._emitter = emitter
        self._wake = threading.Condition()
        self._inbox: list[tuple[int, Work]] = []
        self._given_up: list[int] = []
        self._active: dict[int, Work] = {}
        self._tickets = 0
        self._mean_seconds = 1.0
        self._stop_at: float | None = None
        self._fault = ""
        self._decoder = self._new_decoder()
        self._numbers: dict[int, int] = {}  # the decoder's number of an answer to its ticket
        self._thread = threading.Thread(target=self._run, name="tunesmith-engine", daemon=True)

    @property
    def context(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return self._decoder.context

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Take nothing new, let answers end within the grace, give the rest up with an error."""
        with self._wake:
            self._stop_at = time.monotonic() + grace_seconds
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def check(self) -> None:
        """Nothing, while answers can be given. Errors: serve.model_gone."""
        if self._fault:
            raise TunesmithError("serve.model_gone", reason=self._fault)

    def submit(self, works: Sequence[Work]) -> list[int]:
        """Enter all of these or none; returns their tickets.

        Errors: serve.queue_full, serve.stopping, serve.too_many_choices, serve.model_gone.
        """
        with self._wake:
            self.check()
            if self._stop_at is not None:
                raise TunesmithError("serve.stopping", seconds=5)
            if len(works) > self._most:
                raise RequestError("serve.too_many_choices", "n", asked=len(works), most=self._most)
            if len(self._active) + len(works) > self._most:
                rounds = 1 + max(0, len(self._active) - self._max_batch) / self._max_batch
                seconds = max(1, min(60, round(self._mean_seconds * rounds)))
                raise TunesmithError("serve.queue_full", waiting=len(self._active), seconds=seconds)
            tickets = list(range(self._tickets, self._tickets + len(works)))
            self._tickets += len(works)
            entered = list(zip(tickets, works, strict=True))
            self._active.update(entered)
            self._inbox += entered
            self._show_load()
            self._wake.notify()
        return tickets

    def cancel(self, tickets: Sequence[int]) -> None:
        """Give answers up; those that ended are ignored."""
        with self._wake:
            self._given_up += [ticket for ticket in tickets if ticket in self._active]
            self._wake.notify()

    def _new_decoder(self) -> Decoder:
        return Decoder(self._loaded.model, self._loaded.tokenizer, batch_size=self._max_batch)

    def _run(self) -> None:
        try:
            with generating(self._loaded.model):
                while self._take_orders():
                    try:
                        for progress in self._decoder.step():
                            self._hand_out(progress)
                    except Exception as error:  # whatever a forward pass raises must not end the server
                        self._fail_all(error)
        except Exception as error:  # a device that is lost, for example: there is no way to go on
            self._give_up(error)

    def _take_orders(self) -> bool:
        """Wait for something to do; False when it is time to end."""
        with self._wake:
            while not (self._inbox or self._given_up or self._decoder.busy or self._stop_at is not None):
                self._wake.wait()
            inbox, self._inbox = self._inbox, []
            given_up, self._given_up = set(self._given_up), []
            stop_at = self._stop_at
        for ticket, work in inbox:
            if ticket not in given_up:
                try:
                    self._numbers[self._decoder.add(work.prompt, work.settings, work.constraint)] = ticket
                except TunesmithError as error:
                    self._end(ticket, error)
                except Exception as error:  # one prompt must not end the thread that serves all others
                    self._alarm(error)
                    self._end(ticket, TunesmithError("serve.model_fault", reason=type(error).__name__))
        for number, ticket in list(self._numbers.items()):
            if ticket in given_up:
                self._decoder.remove(number)
                del self._numbers[number]
        for ticket in given_up:
            self._forget(ticket)
        if stop_at is not None and (not self._decoder.busy or time.monotonic() > stop_at):
            for ticket in list(self._active):
                self._end(ticket, TunesmithError("serve.stopping", seconds=5))
            return False
        return True

    def _hand_out(self, progress: Progress) -> None:
        ticket = self._numbers[progress.number]
        work = self._active.get(ticket)
        if progress.completion is None:
            if work is not None:
                work.deliver(progress)
            return
        del self._numbers[progress.number]
        if work is None:
            return
        self._measures.answer_tokens.inc(len(progress.completion.token_ids))
        self._mean_seconds += 0.1 * (time.monotonic() - work.submitted - self._mean_seconds)
        if progress.completion.finish_reason == "fault":
            self._end(ticket, TunesmithError("serve.model_fault", reason="not a finite number"))
        elif work.constraint is not None and work.constraint.fault:
            self._end(ticket, TunesmithError("serve.schema_failed", reason=work.constraint.fault))
        else:
            self._forget(ticket)
            work.deliver(progress)

    def _fail_all(self, error: Exception) -> None:
        self._alarm(error)
        for ticket in list(self._numbers.values()):
            self._end(ticket, TunesmithError("serve.model_fault", reason=type(error).__name__))
        self._numbers.clear()
        self._decoder = self._new_decoder()

    def _give_up(self, error: Exception) -> None:
        """End what is under way, and take nothing new."""
        with self._wake:
            self._fault = type(error).__name__
        for ticket in list(self._active):
            self._end(ticket, TunesmithError("serve.model_gone", reason=self._fault))
        self._alarm(error)

    def _alarm(self, error: Exception) -> None:
        self._emitter.emit("alarm", code="serve.model_fault", reason=f"{type(error).__name__}: {error}"[:500])

    def _end(self, ticket: int, error: TunesmithError) -> None:
        work = self._forget(ticket)
        if work is not None:
            work.deliver(error)

    def _forget(self, ticket: int) -> Work | None:
        with self._wake:
            work = self._active.pop(ticket, None)
            self._show_load()
        return work

    def _show_load(self) -> None:
        self._measures.in_flight.set(len(self._active))
        self._measures.waiting.set(max(0, len(self._active) - self._max_batch))
