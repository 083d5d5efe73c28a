"""Counters of limits, as arithmetic: what is used, what is held by running requests, and what is free. No clock, no I/O.

Always `used + held ≤ limit` after a take. What is held does not drain: it counts from the moment it is settled as used, so
that no window ever sees more than the limit and what drained in it.
"""

from __future__ import annotations

from typing import Final

SCALE: Final = 60_000
"""A rate is kept in parts of 1/60,000, so that a limit per minute drains by whole parts each millisecond."""


class Counter:
    """A limit that fills up and stays so: a window of time, a budget, or (settled with nothing) requests at once."""

    __slots__ = ("__weakref__", "held", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.held = 0

    def free(self, now_ms: int) -> int:
        """What may be taken; negative when the limit was lowered below what is used. `now_ms` never runs backwards."""
        return self.limit - self.used - self.held

    def take(self, amount: int) -> None:
        """Hold it. The caller has seen that it is free."""
        self.held += amount

    def settle(self, held: int, used: int, now_ms: int) -> None:
        """Exchange `held`, of what was taken, for `used`."""
        self.held -= held
        self.used += used

    def left(self, now_ms: int) -> int:
        """What to tell the caller: what is free for anybody."""
        return max(0, self.free(now_ms))

    def may_have(self, amount: int, now_ms: int) -> bool:
        """Whether so much can be had by asking, as far as is known."""
        return self.left(now_ms) >= amount

    def full(self, now_ms: int) -> bool:
        """Whether it is as good as new: nothing used, nothing held."""
        return not self.used and not self.held

    def wait_ms(self, amount: int, now_ms: int) -> int | None:
        """Until so much is free if nothing else is taken; None: only running requests or a new window free it."""
        return 0 if self.free(now_ms) >= amount else None

    def reset_ms(self, now_ms: int) -> int:
        """Until nothing is used, as far as time alone does that."""
        return 0


class Rate(Counter):
    """So many a minute, evenly drained (GCRA), with a burst of the whole limit."""

    __slots__ = ("_at_ms",)

    def __init__(self, limit: int, now_ms: int) -> None:
        super().__init__(limit)
        self._at_ms = now_ms

    def level(self, now_ms: int) -> int:
        """What is used, in parts of SCALE."""
        elapsed = now_ms - self._at_ms
        if elapsed:
            # A clock that ran backwards all the same drains nothing, and draining goes on from there.
            if self.used and elapsed > 0:
                left = self.used - elapsed * self.limit
                self.used = max(0, left)
            self._at_ms = now_ms
        return self.used

    def free(self, now_ms: int) -> int:
        return (self.limit * SCALE - self.level(now_ms)) // SCALE - self.held

    def full(self, now_ms: int) -> bool:
        return not self.level(now_ms) and not self.held

    def settle(self, held: int, used: int, now_ms: int) -> None:
        self.held -= held
        if used:
            self.used = self.level(now_ms) + used * SCALE

    def wait_ms(self, amount: int, now_ms: int) -> int | None:
        if amount + self.held > self.limit:
            return None
        lacking = self.level(now_ms) + (self.held + amount - self.limit) * SCALE
        return max(0, -(-lacking // self.limit))

    def reset_ms(self, now_ms: int) -> int:
        return -(-self.level(now_ms) // self.limit) if self.limit else 0
