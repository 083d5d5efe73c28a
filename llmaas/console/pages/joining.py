"""`/join`: where the link of an invitation leads. It says into what one is invited, or why the link leads nowhere any more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.admin_api.access import PUBLIC, ThePrincipal, address_of
from llmaas.admin_api.invitations import accept_invitation, open_invitation
from llmaas.admin_api.sign_in import SignUpForm, browser_of, new_cookie, register
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.context import Services, TheServices
from llmaas.domain.invitations import Invitation, hash_token
from llmaas.domain.permissions import Permission

Invited = Annotated[str, QueryParameter(name="invitation", max_length=200)]


@dataclass(frozen=True, slots=True)
class Offered:
    """An invitation that can be accepted. `inviter`: "" when that account is gone. `has_account`: somebody of that address."""

    invitation: Invitation
    project: str
    inviter: str
    has_account: bool


@get("/join", opt={"permission": PUBLIC})
async def ask_to_join(
    page: ThePage, services: TheServices, request: Request[Any, Any, Any], invitation: Invited = ""
) -> Response[Any]:
    return await _render(page, services, request, Fields(page.t, {"token": invitation}))


@post("/join", opt={"permission": PUBLIC, **FORM})
async def join(page: ThePage, services: TheServices, request: Request[Any, Any, Any]) -> Response[Any]:
    """Becomes a user by an invitation, and signs in."""
    fields = await read_fields(request, page.t)
    fields.need("name", "password")
    if fields.good:
        form = SignUpForm(fields.value("token").strip(), fields.value("password"), fields.value("name").strip())
        browser = browser_of(request, services)
        with fields.noting("name", "password"):
            user = await register(services, browser.address, form)
            token = await services.sign_in.open_session(user, browser)
            return page.redirect("/", cookies=[new_cookie(token, request, services)])
    return await _render(page, services, request, fields)


@post("/join/accept", opt={"permission": Permission.ACCOUNT_CHANGE, **FORM})
async def accept(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    """For who has an account already; it must be the one of the address that was invited."""
    fields = await read_fields(request, page.t)
    if fields.good:
        with fields.noting():
            invitation = await accept_invitation(services, principal, fields.value("token").strip())
            return page.redirect(f"/?project={quote(invitation.project_id)}", flash="sign_in.joined")
    return await _render(page, services, request, fields)


async def _render(page: Page, services: Services, request: Request[Any, Any, Any], fields: Fields) -> Response[Any]:
    """Raises RateLimited for who guesses links."""
    token = fields.value("token").strip()
    invitation = await open_invitation(services, token)
    if invitation is not None:
        offered = await _offered(services, invitation)
        return page.render("sign_in/join.html", status=200 if fields.good else 422, fields=fields, offered=offered)
    dead = await services.invitations.find(hash_token(token, services.pepper))
    if dead is None:
        services.sign_in.guessed(address_of(request))
    return page.render("sign_in/no_invitation.html", status=404, why=_fault(dead, services.clock.now_ms()))


async def _offered(services: Services, invitation: Invitation) -> Offered:
    project = await services.projects.get(invitation.project_id)
    inviter = await services.users.get(invitation.invited_by)
    return Offered(
        invitation=invitation,
        project=project.name if project is not None else invitation.project_id,
        inviter=(inviter.name or inviter.email) if inviter is not None else "",
        has_account=await services.users.by_email(invitation.email) is not None,
    )


def _fault(invitation: Invitation | None, now_ms: int) -> str:
    """The key of the text that says why it cannot be accepted."""
    if invitation is None:
        return "unknown"
    if invitation.accepted_ms is not None:
        return "accepted"
    return "expired" if invitation.revoked_ms is None and now_ms >= invitation.expires_ms else "withdrawn"


ROUTES: tuple[HTTPRouteHandler, ...] = (ask_to_join, join, accept)
