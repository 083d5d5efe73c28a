"""Password hashes: argon2id, computed in threads, few at a time, since each takes 64 MiB and a noticeable time."""

from __future__ import annotations

import asyncio
import secrets

import argon2

_AT_ONCE = 2


class Passwords:
    """One for each process and event loop."""

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        async with self._free:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def match(self, password_hash: str, password: str) -> bool:
        """Takes the same time for an empty hash, so that it tells nobody who has an account."""
        if not password_hash:
            if self._nobodys is None:
                self._nobodys = await self.hash(secrets.token_hex())
            await self._verify(self._nobodys, password)
            return False
        return await self._verify(password_hash, password)

    async def _verify(self, password_hash: str, password: str) -> bool:
        async with self._free:
            try:
                return await asyncio.to_thread(self._hasher.verify, password_hash, password)
            except (argon2.exceptions.VerifyMismatchError, argon2.exceptions.InvalidHashError):
                return False


def one_time() -> str:
    """A password to hand over, which has to be changed at the first sign-in."""
    return secrets.token_urlsafe(12)
