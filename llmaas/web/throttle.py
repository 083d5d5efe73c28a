"""Slowing down who guesses: a token bucket for each name, such as an address or an account. In memory, for each worker."""

from __future__ import annotations

from collections import OrderedDict

from llmaas.clock import Clock
from llmaas.domain.addresses import site_of
from llmaas.errors import RateLimited

_NAMES = 10_000


class Throttle:
    """`burst` tries at once, then one each `pause_s` seconds. `message`: what the error says to who tries more."""

    def __init__(self, clock: Clock, *, burst: int, pause_s: float, message: str = "Too many attempts.") -> None:
        self._clock = clock
        self._burst = burst
        self._pause_s = pause_s
        self._message = message
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, name: str) -> None:
        """Raises RateLimited."""
        name = self._bucket_of(name)
        now_s = self._clock.monotonic_s()
        level, at_s = self._buckets.pop(name, (float(self._burst), now_s))
        level = min(self._burst, level + (now_s - at_s) / self._pause_s)
        allowed = level >= 1
        self._buckets[name] = (level - 1 if allowed else level, now_s)
        if len(self._buckets) > _NAMES:
            self._buckets.popitem(last=False)
        if not allowed:
            raise RateLimited(self._message, retry_after_s=(1 - level) * self._pause_s)

    def refund(self, name: str) -> None:
        """The try was no guess."""
        name = self._bucket_of(name)
        level, at_s = self._buckets.get(name, (float(self._burst), self._clock.monotonic_s()))
        self._buckets[name] = (min(self._burst, level + 1), at_s)

    def _bucket_of(self, name: str) -> str:
        return name


class AddressThrottle(Throttle):
    """A throttle whose names are addresses. One bucket serves the whole network of one customer (`site_of`)."""

    def _bucket_of(self, name: str) -> str:
        return site_of(name)
