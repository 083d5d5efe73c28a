"""Every route of the admin API. A handler states its permission in `opt`; a test fails on one that does not."""

from __future__ import annotations

from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api import (
    account,
    alerts,
    audit,
    credit,
    fleet,
    invitations,
    keys,
    machines,
    members,
    open_id,
    projects,
    sessions,
    sign_in,
    system,
    tokens,
    usage,
    users,
)

ROUTES: tuple[HTTPRouteHandler, ...] = (
    *sign_in.ROUTES,
    *open_id.ROUTES,
    *account.ROUTES,
    *sessions.ROUTES,
    *tokens.ROUTES,
    *users.ROUTES,
    *projects.ROUTES,
    *members.ROUTES,
    *invitations.ROUTES,
    *keys.ROUTES,
    *usage.ROUTES,
    *alerts.ROUTES,
    *credit.ROUTES,
    *fleet.ROUTES,
    *machines.ROUTES,
    *audit.ROUTES,
    *system.ROUTES,
)
