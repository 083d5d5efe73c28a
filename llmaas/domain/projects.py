"""Projects: the tenant that owns keys and usage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmaas.domain.audit import Actor
from llmaas.errors import NotFound

DEFAULT_PROJECT = "default"
_MAX_ID_CHARS = 64
_ID = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Project:
    """`retention_days`: age at which its usage rows go, sums stay; None: never. `low_credit_nano`: balance to warn at."""

    id: str
    name: str
    created_ms: int
    tier_id: str | None = None
    retention_days: int | None = None
    low_credit_nano: int | None = None
    archived_ms: int | None = None


class ProjectStore(Protocol):
    async def get(self, project_id: str) -> Project | None: ...

    async def page(self, *, of_user: str | None, after: str | None, limit: int) -> Sequence[Project]:
        """In the order of ids. `of_user`: only those that this user is a member of."""
        ...

    async def add(self, project: Project, *, by: Actor) -> None:
        """Raises Conflict when the id is taken, NotFound when there is no such tier."""
        ...

    async def change(self, seen: Project, changed: Project, *, by: Actor, below_zero: bool = False) -> None:
        """Raises NotFound, Outdated when the project is not as `seen` any more, and Conflict when it is to pay from its credit
        from now on and has spent more than that, unless it may begin `below_zero`. Workers notice as they do a key's change.
        """
        ...

    async def without_credit(self, tier_id: str) -> int:
        """How many projects on a tier have nothing left to pay with: those that it refuses when it is prepaid."""
        ...


def valid_id(text: str) -> bool:
    """1 to 64 lower-case letters, digits, dots, dashes and underscores, beginning and ending with a letter or digit."""
    return _ID.fullmatch(text) is not None


def unknown_project(project_id: str) -> NotFound:
    """One text for a project that is not there and for one that is not the caller's."""
    return NotFound(f"There is no project `{project_id[:_MAX_ID_CHARS]}`.", param="project")
