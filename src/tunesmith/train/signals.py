"""SIGTERM and Ctrl-C ask the loop to save and stop; the process then ends with 143 or 130."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Set by a signal; read by the loop between two steps."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def take(self, signal_number: int, frame: FrameType | None) -> None:
        """The handler. A second Ctrl-C does not wait for the step."""
        if self.signal_number == signal.SIGINT and signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = signal_number


@contextmanager
def listening() -> Iterator[StopRequest]:
    """A stop request that signals set inside the block (only the main thread can listen).

    A signal that came too late for the loop to read it goes to whoever listened before: it is never lost.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.signal_number is not None:
        signal.raise_signal(request.signal_number)
