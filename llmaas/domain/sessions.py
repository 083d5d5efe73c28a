"""Sessions: a browser that somebody signed in with. The cookie's token is kept only as a keyed hash."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from llmaas.domain.audit import Actor
from llmaas.domain.users import User

_TOKEN_BYTES = 32
_MAX_TOKEN_CHARS = 64
SEEN_EVERY_MS = 60_000
"""`seen_ms` is written at most so often."""


@dataclass(frozen=True, slots=True)
class Session:
    """`expires_ms` is the absolute end; a session that is not used ends earlier. `user_agent`: what the browser calls itself."""

    id: str
    token_hash: bytes
    user_id: str
    created_ms: int
    seen_ms: int
    expires_ms: int
    address: str
    user_agent: str

    def usable_at(self, now_ms: int, idle_ms: int) -> bool:
        return now_ms < self.expires_ms and now_ms < self.seen_ms + idle_ms


class SessionStore(Protocol):
    async def find(self, token_hash: bytes) -> tuple[Session, User] | None: ...

    async def of_user(self, user_id: str) -> list[Session]: ...

    async def add(self, session: Session, *, verified: User, replaces: bytes | None, by: Actor) -> None:
        """`replaces`: the hash of the token that the browser had before; its session ends.

        `verified`: the session's user as read when the credentials were checked. Raises NotAuthenticated when they are others
        by now: a password that was changed meanwhile opens nothing.
        """
        ...

    async def seen(self, session_id: str, at_ms: int) -> None: ...

    async def end(self, user_id: str, session_id: str, *, by: Actor) -> None:
        """Raises NotFound for what is not a session of that user."""
        ...


def mint() -> str:
    """A random token of 256 bits."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def hash_token(token: str, pepper: bytes) -> bytes:
    """32 bytes of keyed BLAKE2b; the token is random, so no slow hash is needed."""
    return blake2b(token.encode()[:_MAX_TOKEN_CHARS], digest_size=32, key=pepper, person=b"session").digest()


def csrf_token(token: str, pepper: bytes) -> str:
    """What a page of ours shows beside the cookie: only who may read our answers knows it."""
    return blake2b(token.encode()[:_MAX_TOKEN_CHARS], digest_size=32, key=pepper, person=b"csrf").hexdigest()
