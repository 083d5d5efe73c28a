"""`/admin/audit`: what was done, by whom; with filters, and a check that nobody changed the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.console.pages.words_of_time import shown_moment
from llmaas.control.context import Services, TheServices
from llmaas.control.spans import last_days
from llmaas.domain.audit import SYSTEM, AuditFilter, Line, Verdict
from llmaas.domain.permissions import Permission
from llmaas.domain.prices import format_amount

_MOST = 50
_LONGEST = 200
_READ = {"permission": Permission.AUDIT_READ}
NAMES = ("action", "by", "subject", "project")
NOUNS = (
    *("alert_channel", "backend", "credit", "deployment", "invitation", "key", "master-key", "member", "model"),
    *("project", "provider", "session", "tier", "token", "usage", "user"),
)
_MOST_NAMES = 1_000
_FIRST_INSTANT_MS = 10**11
"""What is less is a length of time."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of what was done to; None: it was not there, or is not any more."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class AuditLine:
    line: Line
    differences: list[Difference]


@get("/admin/audit", opt=_READ)
async def list_acts(page: ThePage, services: TheServices, request: Request[Any, Any, Any]) -> Response[Any]:
    return await _render(page, services, dict(request.query_params), None)


@post("/admin/audit/verify", opt={**_READ, **FORM}, status_code=200)
async def verify(page: ThePage, services: TheServices) -> Response[Any]:
    """Looks at every line."""
    return await _render(page, services, {}, await services.audit.verify())


async def _render(page: Page, services: Services, query: dict[str, str], verdict: Verdict | None) -> Response[Any]:
    wanted = {name: query.get(name, "").strip()[:_LONGEST] for name in (*NAMES, "from", "to")}
    where = AuditFilter(
        project_id=wanted["project"] or None,
        actor_id=wanted["by"] or None,
        action=wanted["action"] or None,
        subject_id=wanted["subject"] or None,
        from_ms=_day_ms(wanted["from"]),
        to_ms=_day_ms(wanted["to"], later=1),
    )
    before = query.get("before", "")
    found = await services.audit.page(where, before=int(before) if _is_number(before) else None, limit=_MOST + 1)
    shown = found[:_MOST]
    kept = {name: value for name, value in wanted.items() if value}
    following = f"?{urlencode({**kept, 'before': shown[-1].seq})}" if len(found) > _MOST else ""
    people = {user.id: user.name or user.email for user in await services.users.page(after=None, limit=_MOST_NAMES)}
    projects = await services.projects.page(of_user=None, after=None, limit=_MOST_NAMES)
    named = {project.id: project.name for project in projects}
    return page.render(
        "administration/audit.html",
        lines=[AuditLine(line, differences(line, page.money)) for line in shown],
        choices={
            "action": [(noun, page.t(f"audit.noun_{noun}")) for noun in NOUNS],
            "by": [*_by_name(people), (SYSTEM.id, page.t("audit.kind_system"))],
            "project": _by_name(named),
        },
        wanted=wanted,
        is_inverted=where.from_ms is not None and where.to_ms is not None and where.from_ms >= where.to_ms,
        is_filtered=bool(kept),
        following=following,
        first=f"?{urlencode(kept)}" if before else "",
        people=people,
        named={**named, **people},
        verdict=verdict,
    )


def _by_name(names: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(names.items(), key=lambda one: one[1].casefold())


def differences(line: Line, money: Callable[[int], str] = format_amount) -> list[Difference]:
    """What changed; of a thing that is new or gone, all that it says. Instants and amounts are written for people."""
    before, after = line.act.before or {}, line.act.after or {}
    names = dict.fromkeys((*before, *after))
    return [
        Difference(_name(name), _text(before, name, money), _text(after, name, money))
        for name in names
        if before.get(name) != after.get(name)
    ]


def _name(name: str) -> str:
    """Of a field, without the unit that its value is shown with."""
    return name.removesuffix("_ms").removesuffix("_nano")


def _text(values: Any, name: str, money: Callable[[int], str]) -> str | None:
    value = values.get(name)
    if name not in values or value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if name.endswith("_ms") and value >= _FIRST_INSTANT_MS:
            return shown_moment(value)
        if name.endswith("_nano"):
            return money(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _day_ms(text: str, later: int = 0) -> int | None:
    """None for what is no day: a filter that says nothing."""
    try:
        day = date.fromisoformat(text) + timedelta(later)
    except (ValueError, OverflowError):
        return None
    return last_days(day, 1).from_ms


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


ROUTES: tuple[HTTPRouteHandler, ...] = (list_acts, verify)
