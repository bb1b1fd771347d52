"""Figures for Prometheus, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Measures:
    """What `/metrics` shows. Paths are those of known routes alone, so that no client can grow the memory."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "tunesmith_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "tunesmith_request_seconds",
            "Seconds to the end of the answer.",
            ("path",),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.prompt_tokens = Counter("tunesmith_prompt_tokens", "Tokens read.", registry=self._registry)
        self.answer_tokens = Counter("tunesmith_answer_tokens", "Tokens written.", registry=self._registry)
        self.waiting = Gauge("tunesmith_waiting", "Answers that wait for a place.", registry=self._registry)
        self.in_flight = Gauge("tunesmith_in_flight", "Answers under way or waiting.", registry=self._registry)
        self.feedback = Counter("tunesmith_feedback", "Feedback stored, by kind.", ("kind",), registry=self._registry)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
