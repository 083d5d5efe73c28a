"""How busy each deployment and backend is, as far as this worker knows: requests in flight."""

from __future__ import annotations

from collections import defaultdict

from llmaas.domain.catalogue import Target


class Load:
    def __init__(self) -> None:
        self._by_deployment: defaultdict[str, int] = defaultdict(int)
        self._by_backend: defaultdict[str, int] = defaultdict(int)

    def begin(self, target: Target) -> None:
        self._by_deployment[target.deployment.id] += 1
        self._by_backend[target.backend.id] += 1

    def end(self, target: Target) -> None:
        """Forgets what is idle, so that deployments that are gone leave nothing behind."""
        _count_down(self._by_deployment, target.deployment.id)
        _count_down(self._by_backend, target.backend.id)

    def of_deployment(self, target: Target) -> int:
        return self._by_deployment.get(target.deployment.id, 0)

    def of_backend(self, target: Target) -> int:
        return self._by_backend.get(target.backend.id, 0)

    def is_full(self, target: Target) -> bool:
        limit = target.backend.max_concurrency
        return limit is not None and self.of_backend(target) >= limit


def _count_down(table: defaultdict[str, int], name: str) -> None:
    left = table[name] - 1
    if left > 0:
        table[name] = left
    else:
        del table[name]
