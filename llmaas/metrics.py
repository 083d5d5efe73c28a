"""What is measured, by name. Counted in plain tables, since a request may cost no more than a few microseconds here, and put
into the Prometheus form when somebody asks. One for each process, made by the composition root and handed down.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest

_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
COUNTERS = {
    "llmaas_requests": ("Requests that reached a terminal state.", ("model", "backend", "outcome")),
    "llmaas_tokens": ("Tokens by class.", ("model", "backend", "type")),
    "llmaas_attempts_failed": ("Attempts that failed.", ("backend", "code")),
}
GAUGES = {
    "llmaas_in_flight": "Requests under way.",
    "llmaas_ledger_accepting": "1 while usage rows find a durable place.",
}
TOKENS = ("input", "cached_input", "output", "reasoning")
TTFT = "llmaas_time_to_first_token_seconds"


class Metrics:
    """Labels hold ids of the catalogue and closed sets only: never keys, callers or text. Not for more than one thread."""

    def __init__(self) -> None:
        self._counts: dict[str, defaultdict[tuple[str, ...], int]] = {name: defaultdict(int) for name in COUNTERS}
        self._gauges = dict.fromkeys(GAUGES, 0.0)
        self._ttft: dict[tuple[str, ...], list[int]] = {}
        self._ttft_sum_s: defaultdict[tuple[str, ...], float] = defaultdict(float)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def request_ended(self, model: str, backend: str, outcome: str, ttft_ms: int | None, *tokens: int) -> None:
        """`tokens`: one count for each of TOKENS. `ttft_ms` None: it never gave a first piece."""
        self._counts["llmaas_requests"][model, backend, outcome] += 1
        counts = self._counts["llmaas_tokens"]
        for kind, count in zip(TOKENS, tokens, strict=True):
            if count:
                counts[model, backend, kind] += count
        if ttft_ms is not None:
            self._first_token((model, backend), ttft_ms / 1000)

    def attempt_failed(self, backend: str, code: str) -> None:
        self._counts["llmaas_attempts_failed"][backend, code] += 1

    def _first_token(self, labels: tuple[str, str], seconds: float) -> None:
        buckets = self._ttft.get(labels)
        if buckets is None:
            buckets = self._ttft[labels] = [0] * (len(_BOUNDS_S) + 1)
        buckets[bisect_left(_BOUNDS_S, seconds)] += 1
        self._ttft_sum_s[labels] += seconds

    def set_gauge(self, name: str, value: float) -> None:
        """`name`: one of GAUGES."""
        self._gauges[name] = value

    def collect(self) -> Iterator[Metric]:
        """For the registry: everything counted so far."""
        for name, (text, label_names) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=label_names)
            for labels, count in self._counts[name].items():
                counter.add_metric(labels, count)
            yield counter
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=self._gauges[name])
        histogram = HistogramMetricFamily(
            TTFT, "From the arrival of a request to the first piece of its answer.", labels=("model", "backend")
        )
        for labels, buckets in self._ttft.items():
            total, rows = 0, []
            for bound, count in zip((*map(str, _BOUNDS_S), "+Inf"), buckets, strict=True):
                total += count
                rows.append((bound, float(total)))
            histogram.add_metric(labels, rows, self._ttft_sum_s[labels])
        yield histogram

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)
