"""Users: people who sign in. `password_hash` is an argon2id string, empty for who signs in elsewhere; `totp_secret` is sealed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class User:
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
