"""What a request of the admin API was let in on. A password takes long to hash, a body long to arrive, and a request waits for others
to have written: who was an admin when it came may not be one by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmaas.domain.members import Role
from llmaas.domain.permissions import Credential
from llmaas.domain.users import User


@dataclass(frozen=True, slots=True)
class Standing:
    """`role`: the user's in the project of the route, when there is one. `credential_id`: of the session or token."""

    user: User
    credential: Credential
    credential_id: str
    project_id: str | None
    role: Role | None


HoldTo = Callable[[Standing | None], None]
"""Makes each write transaction from here on, of the request under way, begin by looking whether all of it holds: NotAuthenticated
when session, token or user do not work any more, NotAllowed when they may not do the same. None: nothing is looked at.
"""
