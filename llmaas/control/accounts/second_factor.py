"""The second factor: codes of an authenticator by time (RFC 6238), each usable once, and recovery codes for the lost phone."""

from __future__ import annotations

import hmac
import secrets
from hashlib import blake2b
from typing import Protocol

import pyotp

from llmaas.clock import Clock
from llmaas.domain.audit import Actor
from llmaas.domain.users import User, UserStore
from llmaas.errors import InvalidRequest

_STEP_MS = 30_000
_RECOVERY_CODES = 10
_RECOVERY_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
_RECOVERY_CHARS = 12
_ISSUER = "llmaas"


class Sealer(Protocol):
    """Encrypts what is kept for somebody; `owner` is authenticated with it."""

    def seal(self, owner: str, text: str) -> bytes: ...

    def open(self, owner: str, sealed: bytes) -> str:
        """Raises ValueError when it was changed, or sealed for another owner."""
        ...


class SecondFactor:
    def __init__(self, users: UserStore, sealer: Sealer, clock: Clock, pepper: bytes) -> None:
        self._users = users
        self._sealer = sealer
        self._clock = clock
        self._pepper = pepper

    async def begin(self, user: User, *, by: Actor) -> tuple[str, str]:
        """A new secret, in force once it is confirmed, and the `otpauth://` address for a QR code. Raises Conflict."""
        secret = pyotp.random_base32()
        await self._users.begin_second_factor(user, self._sealer.seal(_owner(user), secret), by=by)
        return secret, pyotp.TOTP(secret).provisioning_uri(name=user.email, issuer_name=_ISSUER)

    async def confirm(self, user: User, code: str, *, keep_session: str, by: Actor) -> list[str]:
        """The recovery codes, shown only now. Raises InvalidRequest for a wrong code, Conflict when none is pending."""
        step = self._matching_step(user, code)
        if step is None or user.totp_secret is None or user.has_second_factor:
            raise InvalidRequest("The code is wrong. Check the clock of the device that shows it.", param="code")
        codes = [
            "".join(secrets.choice(_RECOVERY_ALPHABET) for _ in range(_RECOVERY_CHARS)) for _ in range(_RECOVERY_CODES)
        ]
        hashes = [self._hash(user, code) for code in codes]
        await self._users.confirm_second_factor(user, user.totp_secret, step, hashes, keep_session=keep_session, by=by)
        return codes

    async def passes(self, user: User, code: str) -> bool:
        """Whether the code is good now; it is used up by that."""
        step = self._matching_step(user, code)
        if step is not None:
            return await self._users.spend_step(user.id, step)
        return await self._users.spend_recovery_code(user.id, self._hash(user, code.strip().lower()))

    def _matching_step(self, user: User, code: str) -> int | None:
        """The step before and after count too, since clocks differ."""
        if user.totp_secret is None:
            return None
        totp = pyotp.TOTP(self._sealer.open(_owner(user), user.totp_secret))
        now = self._clock.now_ms() // _STEP_MS
        given = code.replace(" ", "").encode()
        for step in (now, now - 1, now + 1):
            if hmac.compare_digest(totp.generate_otp(step).encode(), given):
                return step
        return None

    def _hash(self, user: User, code: str) -> bytes:
        text = f"{user.id}:{code}".encode()[:200]
        return blake2b(text, digest_size=32, key=self._pepper, person=b"recovery").digest()


def _owner(user: User) -> str:
    return f"totp:{user.id}"
