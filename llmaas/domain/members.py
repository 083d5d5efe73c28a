"""Members: users of a project with a role in it, and the store that keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from llmaas.domain.audit import Actor


class Role(StrEnum):
    """What a member is in a project."""

    DEVELOPER = "developer"
    OWNER = "owner"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Member:
    """`email` and `name` are the user's."""

    project_id: str
    user_id: str
    role: Role
    created_ms: int
    email: str = ""
    name: str = ""


class MemberStore(Protocol):
    async def role(self, project_id: str, user_id: str) -> Role | None:
        """None: no member, or there is no such project."""
        ...

    async def of_project(self, project_id: str, *, after: str | None, limit: int) -> list[Member]:
        """In the order of user ids. Raises NotFound for a project that is not there."""
        ...

    async def of_user(self, user_id: str) -> list[Member]:
        """The projects that somebody is a member of, in the order of their ids."""
        ...

    async def add(self, member: Member, *, by: Actor) -> None:
        """Raises NotFound for an unknown project or user, Conflict for who is a member already."""
        ...

    async def change(self, project_id: str, user_id: str, role: Role, *, seen: Role | None, by: Actor) -> Member:
        """`seen`: the role that the caller read; None: whatever it is.

        Raises NotFound, Outdated when it is another one by now, Conflict when no owner would be left.
        """
        ...

    async def remove(self, project_id: str, user_id: str, *, by: Actor) -> None:
        """Their open invitations into the project end too. Raises NotFound, Conflict when no owner would be left."""
        ...
