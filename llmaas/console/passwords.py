"""Password hashes: argon2id, computed in threads, few at a time, since each takes 64 MiB and a noticeable time.

The threads are for this alone: who is slow to answer a probe or a webhook must not keep people from signing in.
"""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

import argon2

_AT_ONCE = 2


class Passwords:
    """One for each process and event loop."""

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._threads = ThreadPoolExecutor(_AT_ONCE, "passwords")
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, password)

    async def match(self, password_hash: str, password: str) -> bool:
        """Takes the same time for an empty hash, so that it tells nobody who has an account."""
        if not password_hash:
            if self._nobodys is None:
                self._nobodys = await self.hash(secrets.token_hex())
            await self._verify(self._nobodys, password)
            return False
        return await self._verify(password_hash, password)

    async def _verify(self, password_hash: str, password: str) -> bool:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, self._hasher.verify, password_hash, password)
        except (argon2.exceptions.VerifyMismatchError, argon2.exceptions.InvalidHashError):
            return False


def one_time() -> str:
    """A password to hand over, which has to be changed at the first sign-in."""
    return secrets.token_urlsafe(12)
