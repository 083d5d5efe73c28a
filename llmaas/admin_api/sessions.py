"""`/api/v1/sessions`: where the caller is signed in."""

from __future__ import annotations

import msgspec
from litestar import delete, get
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import ThePrincipal
from llmaas.admin_api.shapes import Page, PathId
from llmaas.clock import iso
from llmaas.control.context import TheServices
from llmaas.domain.permissions import Permission


class SessionView(msgspec.Struct, frozen=True):
    """`current`: the one that asks."""

    id: str
    created: str
    seen: str
    expires: str
    address: str
    user_agent: str
    current: bool


@get("/api/v1/sessions", opt={"permission": Permission.SESSIONS_READ})
async def list_sessions(services: TheServices, principal: ThePrincipal) -> Page[SessionView]:
    """Your sessions."""
    now_ms = services.clock.now_ms()
    found = await services.sessions.of_user(principal.user.id)
    return Page(
        [
            SessionView(
                id=session.id,
                created=iso(session.created_ms),
                seen=iso(session.seen_ms),
                expires=iso(session.expires_ms),
                address=session.address,
                user_agent=session.user_agent,
                current=session.id == principal.credential_id,
            )
            for session in found
            if session.usable_at(now_ms, services.session_idle_ms)
        ]
    )


@delete("/api/v1/sessions/{session_id:str}", opt={"permission": Permission.SESSIONS_REVOKE})
async def end_session(services: TheServices, principal: ThePrincipal, session_id: PathId) -> None:
    """End a session of yours."""
    await services.sessions.end(principal.user.id, session_id, by=principal.actor)


ROUTES: tuple[HTTPRouteHandler, ...] = (list_sessions, end_session)
