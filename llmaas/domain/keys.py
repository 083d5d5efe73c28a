"""API keys: `llmaas_<kid>_<secret><crc>`. Only a keyed hash of the secret is ever stored; the crc lets us drop typing
errors and random guesses without asking a store.
"""

from __future__ import annotations

import hmac
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Protocol

from llmaas.domain.audit import Actor
from llmaas.domain.limits import UNLIMITED, Limits
from llmaas.errors import Conflict

_KID_ALPHABET = digits + ascii_lowercase
_BASE62 = digits + ascii_lowercase + ascii_uppercase
_KID_CHARS = 12
_SECRET_CHARS = 40
_CRC_CHARS = 6
_BRAND = "llmaas"
_TOTAL_CHARS = len(_BRAND) + 1 + _KID_CHARS + 1 + _SECRET_CHARS + _CRC_CHARS


class Permission(StrEnum):
    """What a credential may do, named `noun:verb`, in alphabetical order."""

    INFERENCE_USE = "inference:use"
    METRICS_READ = "metrics:read"


@dataclass(frozen=True, slots=True)
class Key:
    """`secret_hash`: 32 bytes of keyed BLAKE2b. Times in ms since 1970. `allowed_models` empty: every model of the catalogue.

    `owner_id`: the member who made it. `networks`: addresses it works from, as CIDR; empty: from everywhere.
    `first_id`: the first key of those that were rotated into this one; None: this one is the first.
    """

    id: str
    project_id: str
    name: str
    secret_hash: bytes
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None
    allowed_models: frozenset[str] = frozenset()
    permissions: frozenset[Permission] = frozenset({Permission.INFERENCE_USE})
    rotated_from: str | None = None
    owner_id: str | None = None
    limits: Limits = UNLIMITED
    networks: tuple[str, ...] = ()
    first_id: str | None = None

    @property
    def limits_id(self) -> str:
        """The key under whose id rates, windows and budgets are counted. All keys of a rotation share one set of limits: a key
        of the same caller under a new secret must not have twice the money.
        """
        return self.first_id or self.id

    @property
    def ends_ms(self) -> int | None:
        """When it stops, by its expiry or before; None: never."""
        return min((at for at in (self.expires_ms, self.revoked_ms) if at is not None), default=None)

    def usable_at(self, now_ms: int) -> bool:
        """Both ends are instants at which the key no longer works."""
        expired = self.expires_ms is not None and now_ms >= self.expires_ms
        revoked = self.revoked_ms is not None and now_ms >= self.revoked_ms
        return not expired and not revoked

    def state_at(self, now_ms: int) -> str:
        if self.revoked_ms is not None and now_ms >= self.revoked_ms:
            return "revoked"
        if self.expires_ms is not None and now_ms >= self.expires_ms:
            return "expired"
        return "expiring" if self.revoked_ms is not None else "active"


class KeyRegister(Protocol):
    """Making and changing keys. Every worker follows within a second; each change is in the audit log."""

    async def get(self, kid: str) -> Key | None: ...

    async def page(
        self, project_id: str, *, after: str | None, limit: int, working_at: int | None = None
    ) -> Sequence[Key]:
        """In the order of ids. `working_at`: only those that work at that instant; None: all that ever were.

        Raises NotFound for a project that is not there.
        """
        ...

    async def add(self, key: Key, *, by: Actor) -> None:
        """Raises NotFound when the project is not there, Conflict when it is archived."""
        ...

    async def change(self, seen: Key, changes: Mapping[str, Any], *, by: Actor) -> Key:
        """Change fields of `CHANGEABLE` and no others. Changed limits hold for all keys of the rotation.

        Raises NotFound, Outdated when the key is not as `seen` any more.
        """
        ...

    async def revoke(self, kid: str, at_ms: int, *, by: Actor) -> Key:
        """Stop a key at an instant; an earlier stop stays. Raises NotFound."""
        ...

    async def rotate(self, kid: str, fresh: Key, stop_ms: int, *, by: Actor) -> Key:
        """Add a successor and stop the old key at `stop_ms`, together; gives the successor as it is stored: with the secret of
        `fresh`, and what the old key has at this moment, whoever changed it since it was read.

        Both spend the same budgets and rates, also while both work.
        Raises NotFound, Conflict when the old key is stopped already or has expired.
        """
        ...


CHANGEABLE = frozenset({"allowed_models", "expires_ms", "limits", "name", "networks"})
"""What of a key may ever change, besides that it stops."""


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A well-formed token of a caller, not yet known to be anybody's."""

    kid: str
    secret: str


def parse(token: str) -> PresentedKey | None:
    """The parts of a token, or None when its form or checksum is wrong. Never raises."""
    if len(token) != _TOTAL_CHARS or not token.isascii():
        return None
    brand, _, rest = token.partition("_")
    kid, _, tail = rest.partition("_")
    if brand != _BRAND or len(kid) != _KID_CHARS or not kid.isalnum() or not tail.isalnum():
        return None
    if not hmac.compare_digest(tail[_SECRET_CHARS:], _checksum(token[:-_CRC_CHARS])):
        return None
    return PresentedKey(kid, tail[:_SECRET_CHARS])


def mint() -> tuple[str, PresentedKey]:
    """A new random token and its parts. 12 characters of id, 40 characters (238 bits) of secret."""
    kid = "".join(secrets.choice(_KID_ALPHABET) for _ in range(_KID_CHARS))
    secret = "".join(secrets.choice(_BASE62) for _ in range(_SECRET_CHARS))
    body = f"{_BRAND}_{kid}_{secret}"
    return body + _checksum(body), PresentedKey(kid, secret)


def issue(draft: Key, pepper: bytes) -> tuple[str, Key]:
    """The token, which is nowhere else from now on, and the draft with the id and the hash of it."""
    token, presented = mint()
    return token, replace(draft, id=presented.kid, secret_hash=hash_secret(presented, pepper))


def successor_of(key: Key, now_ms: int, pepper: bytes) -> tuple[str, Key]:
    """A token with the same rights and limits, and its key. Raises Conflict when the old one has expired."""
    token, fresh = issue(replace(key, created_ms=now_ms), pepper)
    return token, in_place_of(key, fresh)


def in_place_of(key: Key, fresh: Key) -> Key:
    """A successor with the secret of `fresh`, and the rights and limits of `key`. Raises Conflict when that one has expired."""
    if key.expires_ms is not None and key.expires_ms <= fresh.created_ms:
        raise Conflict(f"Key `{key.id}` has expired; make a new one.", param="key")
    return replace(
        key,
        id=fresh.id,
        secret_hash=fresh.secret_hash,
        created_ms=fresh.created_ms,
        revoked_ms=None,
        rotated_from=key.id,
        first_id=key.limits_id,
    )


def hash_secret(presented: PresentedKey, pepper: bytes) -> bytes:
    """BLAKE2b-256 keyed with the installation's pepper; the secret is random, so no slow hash is needed."""
    return blake2b(f"{presented.kid}_{presented.secret}".encode(), digest_size=32, key=pepper).digest()


def masked(kid: str) -> str:
    return f"{_BRAND}_{kid}_…"


def _checksum(text: str) -> str:
    value = zlib.crc32(text.encode())
    out = ""
    for _ in range(_CRC_CHARS):
        value, index = divmod(value, 62)
        out = _BASE62[index] + out
    return out
