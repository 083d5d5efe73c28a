"""Looks, within each write transaction of a request, whether who acts is still who was let in."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.permissions import Credential
from llmaas.domain.standing import Standing
from llmaas.domain.users import changed_meanwhile
from llmaas.errors import NotAllowed
from llmaas.storage.database import in_each_transaction
from llmaas.storage.tables import memberships, sessions, tokens, users


def hold_to(standing: Standing | None) -> None:
    """A `HoldTo` of the domain."""
    in_each_transaction.set(None if standing is None else partial(_require, standing))


async def _require(standing: Standing, connection: AsyncConnection) -> None:
    """In one query. No other transaction writes meanwhile, so what it finds stays true until the commit."""
    by_token = standing.credential is Credential.TOKEN
    credential = tokens if by_token else sessions
    in_project = sa.and_(memberships.c.user_id == users.c.id, memberships.c.project_id == standing.project_id)
    query = (
        sa.select(users.c.disabled_ms, users.c.is_admin, users.c.must_change_password, memberships.c.role)
        .select_from(credential.join(users).outerjoin(memberships, in_project))
        .where(credential.c.id == standing.credential_id)
    )
    if by_token:
        query = query.where(tokens.c.revoked_ms.is_(None))
    found = (await connection.execute(query)).first()
    if found is None or found.disabled_ms is not None:
        raise changed_meanwhile()
    user = standing.user
    one_time_now = found.must_change_password and not user.must_change_password
    if (found.is_admin, found.role) != (user.is_admin, standing.role) or one_time_now:
        raise NotAllowed("Your rights were changed meanwhile. Load the page again.")
