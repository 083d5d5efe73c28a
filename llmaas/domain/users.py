"""Users: people who sign in. `password_hash` is an argon2id string."""

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
