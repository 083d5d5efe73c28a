"""The places of the console, in the order of the navigation: one line each, with what one needs to see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmaas.domain.members import Role
from llmaas.domain.permissions import RULES, Permission


@dataclass(frozen=True, slots=True)
class Place:
    """`name`: its text is `nav.<name>`. `path` may hold `{project_id}`. `icon`: a symbol of `static/icons.svg`."""

    name: str
    path: str
    icon: str
    permission: Permission


@dataclass(frozen=True, slots=True)
class Link:
    """A place as it stands in the navigation of one page."""

    name: str
    path: str
    icon: str
    is_here: bool


_PROJECT = "/projects/{project_id}"
PROJECT_PLACES = (
    Place("overview", f"{_PROJECT}/overview", "overview", Permission.USAGE_READ),
    Place("models", f"{_PROJECT}/models", "models", Permission.PROJECTS_READ),
    Place("playground", f"{_PROJECT}/playground", "playground", Permission.KEYS_CREATE),
    Place("keys", f"{_PROJECT}/keys", "key", Permission.KEYS_READ),
    Place("usage", f"{_PROJECT}/usage", "usage", Permission.USAGE_READ),
    Place("billing", f"{_PROJECT}/billing", "billing", Permission.CREDIT_READ),
    Place("members", f"{_PROJECT}/members", "members", Permission.MEMBERS_READ),
)
ADMIN_PLACES = (
    Place("fleet", "/admin/fleet", "fleet", Permission.FLEET_READ),
    Place("providers", "/admin/providers", "provider", Permission.FLEET_READ),
    Place("projects", "/admin/projects", "project", Permission.PROJECTS_CREATE),
    Place("users", "/admin/users", "members", Permission.USERS_READ),
    Place("tiers", "/admin/tiers", "tier", Permission.FLEET_READ),
    Place("prices", "/admin/prices", "billing", Permission.FLEET_READ),
    Place("audit", "/admin/audit", "audit", Permission.FLEET_READ),
    Place("health", "/admin/health", "health", Permission.FLEET_READ),
    Place("settings", "/admin/settings", "settings", Permission.FLEET_READ),
)


def links(places: Sequence[Place], path: str, *, project_id: str, admin: bool, role: Role | None) -> list[Link]:
    """Those that the reader may see. A page below a place belongs to it."""
    shown = []
    for place in places:
        if RULES[place.permission].allows(admin=admin, role=role):
            target = place.path.format(project_id=project_id)
            is_here = path == target or path.startswith(f"{target}/")
            shown.append(Link(place.name, target, place.icon, is_here))
    return shown
