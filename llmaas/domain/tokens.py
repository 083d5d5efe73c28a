"""Personal access tokens: `llmaas_pat_<id>_<secret><crc>`. A program acts by one in its user's name; only a hash is stored."""

from __future__ import annotations

import hmac
import secrets
import zlib
from dataclasses import dataclass
from hashlib import blake2b
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Protocol

from llmaas.domain.audit import Actor
from llmaas.domain.users import User

_PREFIX = "llmaas_pat_"
_ID_ALPHABET = digits + ascii_lowercase
_SECRET_ALPHABET = digits + ascii_lowercase + ascii_uppercase
_ID_CHARS = 12
_SECRET_CHARS = 40
_CRC_CHARS = 8
_TOTAL_CHARS = len(_PREFIX) + _ID_CHARS + 1 + _SECRET_CHARS + _CRC_CHARS
USED_EVERY_MS = 60_000
"""`used_ms` is written at most so often."""


@dataclass(frozen=True, slots=True)
class Token:
    id: str
    user_id: str
    name: str
    secret_hash: bytes
    created_ms: int
    used_ms: int | None = None
    expires_ms: int | None = None
    revoked_ms: int | None = None

    def usable_at(self, now_ms: int) -> bool:
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


class TokenStore(Protocol):
    async def find(self, token_id: str) -> tuple[Token, User] | None: ...

    async def of_user(self, user_id: str, *, after: str | None, limit: int) -> list[Token]:
        """Those not revoked, in the order of ids."""
        ...

    async def add(self, token: Token, *, by: Actor) -> None: ...

    async def used(self, token_id: str, at_ms: int) -> None: ...

    async def revoke(self, user_id: str, token_id: str, at_ms: int, *, by: Actor) -> None:
        """Raises NotFound for what is not a token of that user."""
        ...


def mint(pepper: bytes) -> tuple[str, str, bytes]:
    """A new token as it is shown once, its id, and the hash to store."""
    token_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARS))
    secret = "".join(secrets.choice(_SECRET_ALPHABET) for _ in range(_SECRET_CHARS))
    body = f"{_PREFIX}{token_id}_{secret}"
    return body + _checksum(body), token_id, hash_token(body + _checksum(body), pepper)


def parse(text: str) -> str | None:
    """The id within a well-formed token; None when form or checksum is wrong. Never raises."""
    if len(text) != _TOTAL_CHARS or not text.isascii() or not text.startswith(_PREFIX):
        return None
    body, crc = text[:-_CRC_CHARS], text[-_CRC_CHARS:]
    token_id, _, secret = body.removeprefix(_PREFIX).partition("_")
    if len(token_id) != _ID_CHARS or not token_id.isalnum() or not secret.isalnum():
        return None
    return token_id if hmac.compare_digest(crc, _checksum(body)) else None


def hash_token(text: str, pepper: bytes) -> bytes:
    """32 bytes of keyed BLAKE2b over the whole token."""
    return blake2b(text.encode(), digest_size=32, key=pepper, person=b"token").digest()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
