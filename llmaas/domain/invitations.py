"""Invitations: an address may join a project in a role. The token is shown once to who invites, and kept as a keyed hash."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from llmaas.domain.audit import Actor
from llmaas.domain.members import Role
from llmaas.domain.users import User


@dataclass(frozen=True, slots=True)
class Invitation:
    """`invited_by`: the id of a user. One that was accepted or revoked stays as a record."""

    id: str
    project_id: str
    email: str
    role: Role
    token_hash: bytes
    invited_by: str
    created_ms: int
    expires_ms: int
    accepted_ms: int | None = None
    revoked_ms: int | None = None

    def open_at(self, now_ms: int) -> bool:
        return self.accepted_ms is None and self.revoked_ms is None and now_ms < self.expires_ms


class InvitationStore(Protocol):
    async def find(self, token_hash: bytes) -> Invitation | None: ...

    async def of_project(self, project_id: str, *, after: str | None, limit: int) -> list[Invitation]:
        """Those neither accepted nor revoked, in the order of ids."""
        ...

    async def add(self, invitation: Invitation, *, by: Actor) -> None:
        """Raises NotFound for an unknown project, Conflict when the address belongs to a member."""
        ...

    async def revoke(self, project_id: str, invitation_id: str, at_ms: int, *, by: Actor) -> None:
        """Raises NotFound for what is not an open invitation into that project."""
        ...

    async def accept(self, invitation: Invitation, user: User, at_ms: int, *, is_new: bool, by: Actor) -> None:
        """Make the user a member, and before that a user when `is_new`: all or nothing, once.

        Raises NotFound when it is not open any more, Conflict when the address is taken or a member's already.
        """
        ...


def hash_token(token: str, pepper: bytes) -> bytes:
    return blake2b(token.encode()[:64], digest_size=32, key=pepper, person=b"invitation").digest()
