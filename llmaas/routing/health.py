"""Which deployments failed lately. A failure sets one aside for a while that doubles with each further one; a success clears it.

Only failures of an engine count; a request that an engine refuses says nothing about the engine.
"""

from __future__ import annotations

from msgspec import Struct

from llmaas.clock import Clock
from llmaas.domain.catalogue import Target

_FIRST_S = 1.0
_LONGEST_S = 30.0
_MOST_COUNTED = 30


class _Failures(Struct, frozen=True):
    """Since the last success. `broken`: at least one of them was more than being busy."""

    count: int
    until_s: float
    broken: bool


_NONE = _Failures(0, 0.0, broken=False)


class Health:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, _Failures] = {}

    def failed(self, target: Target) -> None:
        self._set_aside(target, None, broken=True)

    def busy(self, target: Target, *, retry_after_s: float | None = None) -> None:
        """`retry_after_s`: the engine's own wish, honoured up to the longest time."""
        self._set_aside(target, retry_after_s, broken=False)

    def succeeded(self, target: Target) -> None:
        self._failures.pop(target.deployment.id, None)

    def is_aside(self, target: Target) -> bool:
        """Whether others are to be asked before it."""
        known = self._failures.get(target.deployment.id)
        return known is not None and self._clock.monotonic_s() < known.until_s

    def is_broken(self, target: Target) -> bool:
        """Whether it failed and has not answered since, however long that is ago."""
        return self._failures.get(target.deployment.id, _NONE).broken

    def _set_aside(self, target: Target, wish_s: float | None, *, broken: bool) -> None:
        known = self._failures.get(target.deployment.id, _NONE)
        count = min(known.count + 1, _MOST_COUNTED)
        aside_s = min(wish_s or _FIRST_S * 2 ** (count - 1), _LONGEST_S)
        until_s = self._clock.monotonic_s() + aside_s
        self._failures[target.deployment.id] = _Failures(count, until_s, broken=known.broken or broken)
