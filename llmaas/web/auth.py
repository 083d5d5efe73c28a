"""Who is calling: Bearer keys, looked up in memory, checked by keyed hash and expiry at each use.

A wrong checksum never reaches a store, and an address that keeps guessing may cause only so many look-ups.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from hashlib import blake2b

from llmaas.clock import Clock
from llmaas.domain import keys
from llmaas.domain.access import Caller
from llmaas.domain.addresses import allowed
from llmaas.domain.ports import KeyStore
from llmaas.errors import NotAllowed, NotAuthenticated, Unavailable
from llmaas.web.throttle import AddressThrottle

_GUESSES = 100
_PAUSE_S = 0.5
"""So many look-ups of unknown keys at once for each address, and then one each half second."""
_LOOK_UPS = 32
"""At once. Each counts as a guess until it has found a key, so first uses of many good keys of one address must not run at once."""


class Authenticator:
    """Holds the keys that are in use, at most `size` of them, and as many ids that are nobody's.

    A key is held under the keyed hash of the whole token, so finding it is checking it.
    """

    def __init__(self, store: KeyStore, pepper: bytes, clock: Clock, size: int) -> None:
        self._store = store
        self._pepper = pepper
        self._keyed = blake2b(digest_size=32, key=pepper)
        self._clock = clock
        self._size = size
        self._known: OrderedDict[bytes, Caller] = OrderedDict()
        self._nobodys: OrderedDict[str, None] = OrderedDict()
        self._guesses = AddressThrottle(
            clock, burst=_GUESSES, pause_s=_PAUSE_S, message="Too many unknown API keys from this address."
        )
        self._looking: dict[bytes, asyncio.Task[Caller]] = {}
        self._turns = asyncio.Semaphore(_LOOK_UPS)
        self._refreshes = 0

    def known_caller(self, token: str | None, address: str) -> Caller | None:
        """From memory, where a key is once it was used; None: ask `caller`. Raises NotAuthenticated with one text for every
        reason, NotAllowed from a wrong network.
        """
        if not token:
            raise _refused()
        digest = self._digest(token)
        caller = self._known.get(digest)
        if caller is None:
            return None
        self._known.move_to_end(digest)
        return self._usable(caller, address)

    async def caller(self, token: str | None, address: str) -> Caller:
        """Like `known_caller`, for any key. Raises RateLimited too, and Unavailable when the store is away."""
        caller = self.known_caller(token, address)
        if caller is None and token:
            caller = self._usable(await self._look_up_once(token, self._digest(token), address), address)
        if caller is None:
            raise _refused()
        return caller

    def _digest(self, token: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(token.encode("latin-1"))
        return keyed.digest()

    def _usable(self, caller: Caller, address: str) -> Caller:
        if not caller.key.usable_at(self._clock.now_ms()) or caller.project.archived_ms is not None:
            raise _refused()
        if caller.key.networks and not allowed(address, caller.key.networks):
            raise NotAllowed("This key may not be used from this address.")
        return caller

    async def refresh(self) -> None:
        """Keys changed somewhere: read again what is held, so that known keys stay known and revoked ones stop."""
        fresh = await self._store.callers([caller.key.id for caller in self._known.values()])
        for digest, caller in list(self._known.items()):
            now = fresh.get(caller.key.id)
            if now is not None and now.key.secret_hash == caller.key.secret_hash:
                self._known[digest] = now
            else:
                del self._known[digest]
        self._nobodys.clear()
        self._refreshes += 1

    def forget(self) -> None:
        """Let go of all that is held: each key is read again when it is used next, by itself. For when nobody knows what changed."""
        self._known.clear()
        self._nobodys.clear()
        self._refreshes += 1

    async def _look_up_once(self, token: str, digest: bytes, address: str) -> Caller:
        """Requests that come together with a token that is new here share one look-up: a burst is no guessing."""
        looking = self._looking.get(digest)
        if looking is None:
            looking = asyncio.create_task(self._look_up(token, digest, address))
            self._looking[digest] = looking
            looking.add_done_callback(lambda _: self._looking.pop(digest))
        return await asyncio.shield(looking)

    async def _look_up(self, token: str, digest: bytes, address: str) -> Caller:
        presented = keys.parse(token)
        if presented is None or presented.kid in self._nobodys:
            raise _refused()
        async with self._turns:
            self._guesses.spend(address)
            try:
                caller = await self._read(presented.kid)
            except Unavailable:
                self._guesses.refund(address)
                raise
            if caller is None:
                self._nobodys[presented.kid] = None
                if len(self._nobodys) > self._size:
                    self._nobodys.popitem(last=False)
                raise _refused()
            if not hmac.compare_digest(keys.hash_secret(presented, self._pepper), caller.key.secret_hash):
                raise _refused()
            self._guesses.refund(address)
        self._known[digest] = caller
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return caller

    async def _read(self, kid: str) -> Caller | None:
        """From the store. Again when keys changed meanwhile: what was read before must not be held after a refresh."""
        while True:
            refreshes = self._refreshes
            caller = (await self._store.callers([kid])).get(kid)
            if refreshes == self._refreshes:
                return caller


def _refused() -> NotAuthenticated:
    return NotAuthenticated("Incorrect API key provided. Send a valid key as 'Authorization: Bearer KEY'.")
