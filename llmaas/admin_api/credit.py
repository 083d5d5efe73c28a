"""`/api/v1/projects/{id}/credit`: prepaid money of a project and its entries."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, QueryParameter

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.shapes import Form, Limit, Page, PathId, checked_name, page_of
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.permissions import Permission
from llmaas.domain.prices import format_amount, parse_amount
from llmaas.domain.projects import unknown_project
from llmaas.errors import InvalidRequest

_SENDER_KEY = re.compile(r"[\x21-\x7e]{1,200}")


class NewEntry(Form, frozen=True):
    """`amount`: a decimal such as "200.00"; a correction or a refund may begin with a minus.

    `idempotency_key`: who sends the same one again gets the entry that is there.
    `below_zero`: more may be taken than the project has left, which is refused else.
    """

    amount: str
    kind: CreditKind = CreditKind.TOP_UP
    note: str = ""
    idempotency_key: str | None = None
    below_zero: bool = False


class EntryView(msgspec.Struct, frozen=True):
    id: str
    created: str
    amount: str
    currency: str
    kind: CreditKind
    note: str
    actor: str


class BalanceView(msgspec.Struct, frozen=True):
    """`left` is `credited` less `spent`; `held` of it is reserved by requests under way."""

    credited: str
    spent: str
    held: str
    left: str
    currency: str


@get("/api/v1/projects/{project_id:str}/credit", opt={"permission": Permission.CREDIT_READ})
async def show_credit(services: TheServices, project_id: PathId) -> BalanceView:
    """What a project has been given, has spent and has left."""
    await _check(services, project_id)
    balance = await services.credit.balance(project_id)
    return BalanceView(
        format_amount(balance.credited_nano),
        format_amount(balance.spent_nano),
        format_amount(balance.held_nano),
        format_amount(balance.left_nano),
        services.currency,
    )


@get("/api/v1/projects/{project_id:str}/credit/entries", opt={"permission": Permission.CREDIT_READ})
async def list_credit(
    services: TheServices,
    project_id: PathId,
    after: Annotated[str | None, QueryParameter(max_length=200, description="`next` of the page before.")] = None,
    limit: Limit = 50,
) -> Page[EntryView]:
    """Entries of a project's credit, newest first."""
    await _check(services, project_id)
    found = await services.credit.page(project_id, before=after, limit=limit + 1)
    return page_of(found, limit, lambda entry: _view(services, entry), lambda entry: entry.id)


@post("/api/v1/projects/{project_id:str}/credit/entries", opt={"permission": Permission.CREDIT_ADD})
async def add_credit(
    services: TheServices, principal: ThePrincipal, project_id: PathId, data: JSONBody[NewEntry]
) -> EntryView:
    """Add an entry. Entries are never changed; a correction is another one."""
    return _view(services, await add_entry(services, principal, project_id, data))


async def add_entry(services: Services, principal: Principal, project_id: str, data: NewEntry) -> CreditEntry:
    """Raises InvalidRequest, NotFound for an unknown project, and Conflict when more is taken than is left."""
    if data.idempotency_key is not None and _SENDER_KEY.fullmatch(data.idempotency_key) is None:
        raise InvalidRequest("`idempotency_key` must be 1 to 200 visible ASCII characters.", param="idempotency_key")
    entry = CreditEntry(
        id=f"credit-{services.ids.uuid7()}",
        project_id=project_id,
        created_ms=services.clock.now_ms(),
        amount_nano=signed_amount(data.amount, data.kind),
        kind=data.kind,
        note=checked_name(data.note, "note") if data.note else "",
        actor=principal.user.id,
        idempotency_key=data.idempotency_key,
    )
    return await services.credit.add(entry, by=principal.actor, below_zero=data.below_zero)


async def _check(services: Services, project_id: str) -> None:
    if await services.projects.get(project_id) is None:
        raise unknown_project(project_id)


def signed_amount(text: str, kind: CreditKind) -> int:
    """Nano-units. Raises InvalidRequest for nothing, and for a sign that does not go with the kind."""
    try:
        amount = parse_amount(text.removeprefix("-"))
    except ValueError as error:
        raise InvalidRequest(f"`amount` {error}.", param="amount") from error
    negative = text.startswith("-")
    if not amount:
        raise InvalidRequest("`amount` must not be zero.", param="amount")
    if negative and kind in {CreditKind.TOP_UP, CreditKind.GRANT}:
        raise InvalidRequest(f"`amount` of a {kind} must not be negative.", param="amount")
    if not negative and kind is CreditKind.REFUND:
        raise InvalidRequest("`amount` of a refund must be negative: it leaves the project.", param="amount")
    return -amount if negative else amount


def _view(services: Services, entry: CreditEntry) -> EntryView:
    return EntryView(
        id=entry.id,
        created=iso(entry.created_ms),
        amount=format_amount(entry.amount_nano),
        currency=services.currency,
        kind=entry.kind,
        note=entry.note,
        actor=entry.actor,
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (show_credit, list_credit, add_credit)
