"""Which deployments failed lately. A failure sets one aside for a while that doubles with each further one; a success clears it.

Only failures of an engine count; a request that an engine refuses says nothing about the engine.
"""

from __future__ import annotations

from llmaas.clock import Clock
from llmaas.domain.catalogue import Target

_FIRST_S = 1.0
_LONGEST_S = 30.0
_MOST_COUNTED = 30


class Health:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def failed(self, target: Target, *, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: the engine's own wish, honoured up to the longest time."""
        count = min(self._failures.get(target.deployment.id, (0, 0.0))[0] + 1, _MOST_COUNTED)
        aside_s = min(retry_after_s or _FIRST_S * 2 ** (count - 1), _LONGEST_S)
        self._failures[target.deployment.id] = (count, self._clock.monotonic_s() + aside_s)

    def succeeded(self, target: Target) -> None:
        self._failures.pop(target.deployment.id, None)

    def is_aside(self, target: Target) -> bool:
        entry = self._failures.get(target.deployment.id)
        return entry is not None and self._clock.monotonic_s() < entry[1]
