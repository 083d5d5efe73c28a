"""What is measured, by name. One registry for each process, made by the composition root and handed down."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Labels hold ids of the catalogue and closed sets only: never keys, callers or text."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "llmaas_requests", "Requests that reached a terminal state.", ("model", "backend", "outcome"), registry=self.registry
        )
        self.tokens = Counter("llmaas_tokens", "Tokens by class.", ("model", "backend", "type"), registry=self.registry)
        self.ttft = Histogram(
            "llmaas_time_to_first_token_seconds",
            "From the arrival of a request to the first piece of its answer.",
            ("model", "backend"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter("llmaas_refused", "Requests that ended before a backend was chosen.", ("code",), registry=self.registry)
        self.in_flight = Gauge("llmaas_in_flight", "Requests under way.", registry=self.registry)
        self.attempts_failed = Counter(
            "llmaas_attempts_failed", "Attempts that failed.", ("backend", "code"), registry=self.registry
        )
        self.ledger_accepting = Gauge("llmaas_ledger_accepting", "1 while usage rows find a durable place.", registry=self.registry)

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)
