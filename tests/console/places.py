"""Every page of the console as somebody reaches it: the one list for screenshots and for what all pages must keep to."""

from __future__ import annotations

from dataclasses import dataclass

from tests.console.demo import INVITATION, PROJECT


@dataclass(frozen=True, slots=True)
class Spot:
    """`name`: of the screenshot. `reader`: one of the demo's people, "" for who is not signed in."""

    name: str
    path: str
    reader: str = "owner"

    def __str__(self) -> str:
        return self.name


_PROJECT = f"/projects/{PROJECT}"
SPOTS = (
    Spot("landing", "/", ""),
    Spot("sign-in", "/sign-in", ""),
    Spot("join", f"/join?invitation={INVITATION}", ""),
    Spot("not-found", "/nothing/here"),
    Spot("overview", f"{_PROJECT}/overview"),
    Spot("models", f"{_PROJECT}/models"),
    Spot("model", f"{_PROJECT}/models/granite3.3:8b"),
    Spot("playground", f"{_PROJECT}/playground"),
    Spot("keys", f"{_PROJECT}/keys"),
    Spot("key-new", f"{_PROJECT}/keys/new"),
    Spot("usage", f"{_PROJECT}/usage"),
    Spot("usage-requests", f"{_PROJECT}/usage/requests"),
    Spot("billing", f"{_PROJECT}/billing"),
    Spot("alerts", f"{_PROJECT}/billing/alerts"),
    Spot("members", f"{_PROJECT}/members"),
    Spot("member", f"{_PROJECT}/members/user-dev"),
    Spot("member-remove", f"{_PROJECT}/members/user-dev/remove"),
    Spot("invite", f"{_PROJECT}/invitations/new"),
    Spot("leave", f"{_PROJECT}/leave"),
    Spot("profile", "/profile"),
    Spot("profile-security", "/profile/security"),
    Spot("profile-second-factor", "/profile/second-factor"),
    Spot("profile-tokens", "/profile/tokens"),
    Spot("profile-token-new", "/profile/tokens/new"),
    Spot("status", "/status", ""),
    Spot("docs", "/docs", ""),
    Spot("docs-inference", "/docs/inference"),
    Spot("docs-keys", "/docs/keys"),
    Spot("fleet", "/admin/fleet", "root"),
    Spot("fleet-add", "/admin/fleet/add", "root"),
    Spot("machine", "/admin/fleet/machines/ma01", "root"),
    Spot("machine-edit", "/admin/fleet/machines/ma01/edit", "root"),
    Spot("machine-out-of-service", "/admin/fleet/machines/ma01/out-of-service", "root"),
    Spot("machine-publish", "/admin/fleet/machines/ma01/publish", "root"),
    Spot("machine-remove", "/admin/fleet/machines/ma01/remove", "root"),
    Spot("fleet-model", "/admin/fleet/models/granite3.3:8b", "root"),
    Spot("fleet-model-edit", "/admin/fleet/edit-model/granite3.3:8b", "root"),
    Spot("deployment", "/admin/fleet/deployments/granite3.3:8b@ma01", "root"),
    Spot("providers", "/admin/providers", "root"),
    Spot("provider", "/admin/providers/lab", "root"),
    Spot("provider-new", "/admin/providers/new", "root"),
    Spot("admin-projects", "/admin/projects", "root"),
    Spot("admin-project", "/admin/projects/assistants", "root"),
    Spot("admin-project-new", "/admin/projects/new", "root"),
    Spot("admin-project-archive", "/admin/projects/research/archive", "root"),
    Spot("admin-users", "/admin/users", "root"),
    Spot("admin-user", "/admin/users/user-dev", "root"),
    Spot("admin-user-new", "/admin/users/new", "root"),
    Spot("admin-user-disable", "/admin/users/user-dev/disable", "root"),
    Spot("tiers", "/admin/tiers", "root"),
    Spot("tier", "/admin/tiers/team", "root"),
    Spot("prices", "/admin/prices", "root"),
    Spot("price-versions", "/admin/prices?model=granite3.3:8b", "root"),
    Spot("audit", "/admin/audit", "root"),
    Spot("health", "/admin/health", "root"),
    Spot("settings", "/admin/settings", "root"),
    Spot("welcome-project", "/welcome/project", "root"),
    Spot("welcome-answer", "/welcome/answer", "root"),
)
