"""Users: people who sign in. `password_hash` is an argon2id string, empty for who signs in elsewhere; `totp_secret` is sealed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmaas.domain.audit import Actor
from llmaas.errors import NotAuthenticated

MIN_PASSWORD_CHARS = 12
_MAX_PASSWORD_CHARS = 200
_MAX_EMAIL_CHARS = 254
_EMAIL = re.compile(r"[^@\s\"'<>()\[\],;:\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class User:
    """`totp_last_step`: the last time step whose code was taken; None: no second factor, or one not confirmed yet."""

    id: str
    email: str
    password_hash: str
    is_admin: bool
    must_change_password: bool
    created_ms: int
    name: str = ""
    totp_secret: bytes | None = None
    totp_last_step: int | None = None
    oidc_issuer: str | None = None
    oidc_subject: str | None = None
    disabled_ms: int | None = None

    @property
    def has_second_factor(self) -> bool:
        return self.totp_last_step is not None

    @property
    def credentials(self) -> tuple[object, ...]:
        """What a sign-in verifies. When any of it changes, nothing that was verified before holds any more."""
        factor = self.totp_secret if self.has_second_factor else None
        return self.password_hash, factor, self.oidc_issuer, self.oidc_subject, self.disabled_ms


class UserStore(Protocol):
    """What changes sessions or secrets of a user is all in one transaction with its line in the audit.

    `verified`: the user as read when the password was checked, which takes a while. NotAuthenticated is raised, and nothing
    changed, when the credentials are others by now. None: an admin's word needs no password of the user's.
    """

    async def get(self, user_id: str) -> User | None: ...

    async def by_email(self, email: str) -> User | None: ...

    async def by_identity(self, issuer: str, subject: str) -> User | None: ...

    async def page(self, *, after: str | None, limit: int) -> Sequence[User]:
        """In the order of ids, which is that of their making."""
        ...

    async def names_in(self, project_id: str) -> Mapping[str, str]:
        """What members of a project are called, and who else owns keys of it: admins, and who has left. By user id."""
        ...

    async def add(self, user: User, *, by: Actor) -> None:
        """Raises Conflict when the e-mail address is taken."""
        ...

    async def change(self, seen: User, changed: User, *, by: Actor) -> None:
        """Put name, `is_admin` and `disabled_ms`; a disabled user's sessions end.

        Raises NotFound, Outdated when the user is not as `seen` any more, Conflict when no admin would be left.
        """
        ...

    async def set_password(
        self,
        user_id: str,
        password_hash: str,
        *,
        must_change: bool,
        keep_session: str | None,
        by: Actor,
        verified: User | None = None,
    ) -> None:
        """All sessions of the user end but `keep_session`. Raises NotFound."""
        ...

    async def link(self, user_id: str, issuer: str, subject: str, *, by: Actor) -> None:
        """Raises Conflict when the user or the identity is linked already."""
        ...

    async def begin_second_factor(self, verified: User, sealed: bytes, *, by: Actor) -> None:
        """Keep a secret that is not confirmed yet. Raises Conflict when there is a confirmed one."""
        ...

    async def confirm_second_factor(
        self, verified: User, sealed: bytes, step: int, recovery: Sequence[bytes], *, keep_session: str, by: Actor
    ) -> None:
        """From now on a sign-in needs a code; other sessions end. Raises Conflict when `sealed` is not the pending one."""
        ...

    async def end_second_factor(self, user_id: str, *, by: Actor, verified: User | None = None) -> None: ...

    async def spend_step(self, user_id: str, step: int) -> bool:
        """Note that the code of a time step was used; False when it or a later one was used already."""
        ...

    async def spend_recovery_code(self, user_id: str, code_hash: bytes) -> bool:
        """Use up a recovery code; False when there is no such one."""
        ...


def changed_meanwhile() -> NotAuthenticated:
    """What was verified of a user is not so any more."""
    return NotAuthenticated("The account was changed meanwhile. Sign in again.")


def valid_email(text: str) -> bool:
    return len(text) <= _MAX_EMAIL_CHARS and text.isprintable() and _EMAIL.fullmatch(text) is not None


def password_fault(password: str, email: str) -> str | None:
    """Why it can't be a password; None when it can."""
    if not MIN_PASSWORD_CHARS <= len(password) <= _MAX_PASSWORD_CHARS:
        return f"A password has {MIN_PASSWORD_CHARS} to {_MAX_PASSWORD_CHARS} characters."
    if password.casefold() in {email, email.partition("@")[0]} or len(set(password)) < 4:
        return "That password is too easy to guess."
    return None
