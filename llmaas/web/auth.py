"""Who is calling: Bearer keys, looked up in memory, checked by keyed hash and expiry at each use.

A wrong checksum never reaches a store, and an address that keeps guessing may cause only so many look-ups.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict

from llmaas.clock import Clock
from llmaas.domain import keys
from llmaas.domain.access import Caller
from llmaas.domain.keys import Key
from llmaas.domain.ports import KeyStore
from llmaas.errors import NotAuthenticated, RateLimited

_GUESSES = 20.0
_GUESSES_PER_S = 2.0
_ADDRESSES = 10_000


class GuessLimit:
    """A token bucket for each address, spent by look-ups of keys that nobody has used here before."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, address: str) -> None:
        """Raises RateLimited."""
        now_s = self._clock.monotonic_s()
        level, at_s = self._buckets.pop(address, (_GUESSES, now_s))
        level = min(_GUESSES, level + (now_s - at_s) * _GUESSES_PER_S)
        if level < 1:
            self._buckets[address] = (level, now_s)
            raise RateLimited("Too many unknown API keys from this address.", retry_after_s=1 / _GUESSES_PER_S)
        self._buckets[address] = (level - 1, now_s)
        if len(self._buckets) > _ADDRESSES:
            self._buckets.popitem(last=False)

    def refund(self, address: str) -> None:
        """The look-up found a real key."""
        level, at_s = self._buckets.get(address, (_GUESSES, self._clock.monotonic_s()))
        self._buckets[address] = (min(_GUESSES, level + 1), at_s)


class Authenticator:
    """Holds the keys that are in use, at most `size` of them, and as many ids that are nobody's."""

    def __init__(self, store: KeyStore, pepper: bytes, clock: Clock, size: int) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._size = size
        self._known: OrderedDict[str, Caller] = OrderedDict()
        self._nobodys: OrderedDict[str, None] = OrderedDict()
        self._guesses = GuessLimit(clock)

    async def caller(self, token: str | None, address: str) -> Caller:
        """Raises NotAuthenticated with one text for every reason, RateLimited, or Unavailable when the store is away."""
        presented = keys.parse(token) if token else None
        if presented is None:
            raise _refused()
        caller = self._known.get(presented.kid)
        if caller is None:
            caller = await self._look_up(presented.kid, address)
        else:
            self._known.move_to_end(presented.kid)
        digest = keys.hash_secret(presented, self._pepper)
        if not hmac.compare_digest(digest, caller.key.secret_hash) or not caller.key.usable_at(self._clock.now_ms()):
            raise _refused()
        return caller

    async def refresh(self) -> None:
        """Keys changed somewhere: read again what is held, so that known keys stay known and revoked ones stop."""
        fresh = await self._store.get_many(list(self._known))
        for kid in list(self._known):
            if kid in fresh:
                self._known[kid] = Caller(fresh[kid])
            else:
                del self._known[kid]
        self._nobodys.clear()

    async def _look_up(self, kid: str, address: str) -> Caller:
        if kid in self._nobodys:
            raise _refused()
        self._guesses.spend(address)
        key: Key | None = await self._store.get(kid)
        if key is None:
            self._nobodys[kid] = None
            if len(self._nobodys) > self._size:
                self._nobodys.popitem(last=False)
            raise _refused()
        self._guesses.refund(address)
        caller = self._known[kid] = Caller(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return caller


def _refused() -> NotAuthenticated:
    return NotAuthenticated("Incorrect API key provided. Send a valid key as 'Authorization: Bearer KEY'.")
