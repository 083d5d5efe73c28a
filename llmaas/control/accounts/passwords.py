"""Password hashes: argon2id, computed in threads, few at a time, since each takes 64 MiB and a noticeable time.

The threads are for this alone: who is slow to answer a probe or a webhook must not keep people from signing in.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import argon2

from llmaas.errors import RateLimited

T = TypeVar("T")

_AT_ONCE = 2
_MOST_WAITING = 12
"""Checks in the queue. Each takes up to 0.15 s of a thread, so the last one waits for about a second."""


class Passwords:
    """One for each process and event loop."""

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "passwords")
        self._nobodys: str | None = None
        self._queued = 0

    @property
    def busy(self) -> bool:
        """Whether who comes now would wait for longer than people take for a working service."""
        return self._queued >= _AT_ONCE + _MOST_WAITING

    async def hash(self, password: str) -> str:
        """Raises RateLimited when many wait already."""
        if self.busy:
            raise crowded()
        return await self._compute(self._hasher.hash, password)

    async def match(self, password_hash: str, password: str) -> bool:
        """Takes the same time for an empty hash, so that it tells nobody who has an account."""
        if not password_hash:
            if self._nobodys is None:
                self._nobodys = await self._compute(self._hasher.hash, secrets.token_hex())
            await self._verify(self._nobodys, password)
            return False
        return await self._verify(password_hash, password)

    async def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return await self._compute(self._hasher.verify, password_hash, password)
        except (argon2.exceptions.VerifyMismatchError, argon2.exceptions.InvalidHashError):
            return False

    async def _compute(self, work: Callable[..., T], *values: str) -> T:
        """In the threads. A caller who leaves does not take the work along, so it counts until it is done."""
        self._queued += 1
        done = asyncio.get_running_loop().run_in_executor(self._threads, work, *values)
        done.add_done_callback(self._one_less)
        return await asyncio.shield(done)

    def _one_less(self, done: asyncio.Future[Any]) -> None:
        self._queued -= 1
        if not done.cancelled():
            done.exception()  # nobody may be there to look at it


def crowded() -> RateLimited:
    return RateLimited("Many people are signing in right now. Try again in a moment.", retry_after_s=2)


def one_time() -> str:
    """A password to hand over, which has to be changed at the first sign-in."""
    return secrets.token_urlsafe(12)
