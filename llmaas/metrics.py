"""What is measured, by name. Counted in plain tables, since a request may cost no more than a few microseconds here, and put
into the Prometheus form when somebody asks. One for each process, made by the composition root and handed down.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate

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
    "llmaas_ledger_database": "1 while the database takes usage rows, 0 while they wait in the spool.",
}
TOKENS = ("input", "cached_input", "output", "reasoning")
TTFT = "llmaas_time_to_first_token_seconds"


class _Ended:
    """Requests of one model that ended on one backend. `tokens` by TOKENS; `ttft`: counts by _BOUNDS_S and one for what is above."""

    __slots__ = ("outcomes", "tokens", "ttft", "ttft_sum_s")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.tokens = [0] * len(TOKENS)
        self.ttft = [0] * (len(_BOUNDS_S) + 1)
        self.ttft_sum_s = 0.0


class Metrics:
    """Labels hold ids of the catalogue and closed sets only: never keys, callers or text. Not for more than one thread."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], _Ended] = {}
        self._attempts_failed: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._gauges = dict.fromkeys(GAUGES, 0.0)
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def request_ended(
        self,
        model: str,
        backend: str,
        outcome: str,
        ttft_ms: int | None,
        tokens: tuple[int, int, int, int],
    ) -> None:
        """`tokens`: one count for each of TOKENS. `ttft_ms` None: it never gave a first piece."""
        ended = self._ended.get((model, backend))
        if ended is None:
            ended = self._ended[model, backend] = _Ended()
        outcomes = ended.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        sums = ended.tokens
        sums[0] += tokens[0]
        sums[1] += tokens[1]
        sums[2] += tokens[2]
        sums[3] += tokens[3]
        if ttft_ms is not None:
            seconds = ttft_ms / 1000
            ended.ttft[bisect_left(_BOUNDS_S, seconds)] += 1
            ended.ttft_sum_s += seconds

    def attempt_failed(self, backend: str, code: str) -> None:
        self._attempts_failed[backend, code] += 1

    def set_gauge(self, name: str, value: float) -> None:
        """`name`: one of GAUGES."""
        self._gauges[name] = value

    def collect(self) -> Iterator[Metric]:
        """For the registry: everything counted so far."""
        requests, tokens, failed = (CounterMetricFamily(n, text, labels=of) for n, (text, of) in COUNTERS.items())
        ttft = HistogramMetricFamily(
            TTFT, "From the arrival of a request to the first piece of its answer.", labels=("model", "backend")
        )
        for labels, ended in self._ended.items():
            for outcome, count in ended.outcomes.items():
                requests.add_metric((*labels, outcome), count)
            for kind, count in zip(TOKENS, ended.tokens, strict=True):
                if count:
                    tokens.add_metric((*labels, kind), count)
            if any(ended.ttft):
                sums = [float(total) for total in accumulate(ended.ttft)]
                rows = list(zip((*map(str, _BOUNDS_S), "+Inf"), sums, strict=True))
                ttft.add_metric(labels, rows, ended.ttft_sum_s)
        for labels, count in self._attempts_failed.items():
            failed.add_metric(labels, count)
        yield from (requests, tokens, failed)
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=self._gauges[name])
        yield ttft

    def render(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self._registry)
