"""`/api/v1/projects/{id}/invitations`: letting somebody into a project; and accepting that."""

from __future__ import annotations

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.account import MembershipView
from llmaas.admin_api.shapes import After, Form, Limit, Page, PathId, page_of
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain import invitations, sessions
from llmaas.domain.invitations import Invitation
from llmaas.domain.members import Role
from llmaas.domain.permissions import Permission
from llmaas.domain.users import valid_email
from llmaas.errors import InvalidRequest, NotFound

_PATH = "/api/v1/projects/{project_id:str}/invitations"
_DAY_MS = 86_400_000
_MAX_DAYS = 90


class NewInvitation(Form, frozen=True):
    email: str
    role: Role
    expires_days: int = 7


class InvitationView(msgspec.Struct, frozen=True):
    """`expired`: it can no longer be accepted."""

    id: str
    email: str
    role: Role
    created: str
    expires: str
    expired: bool


class MadeInvitation(msgspec.Struct, frozen=True):
    """`token` is shown only now: hand it to the person at that address."""

    id: str
    token: str
    expires: str


class InvitationToken(Form, frozen=True):
    token: str


@get(_PATH, opt={"permission": Permission.INVITATIONS_READ})
async def list_invitations(
    services: TheServices, project_id: PathId, after: After = None, limit: Limit = 50
) -> Page[InvitationView]:
    """Invitations that were neither accepted nor revoked."""
    now_ms = services.clock.now_ms()

    def view(invitation: Invitation) -> InvitationView:
        return InvitationView(
            id=invitation.id,
            email=invitation.email,
            role=invitation.role,
            created=iso(invitation.created_ms),
            expires=iso(invitation.expires_ms),
            expired=not invitation.open_at(now_ms),
        )

    found = await services.invitations.of_project(project_id, after=after, limit=limit + 1)
    return page_of(found, limit, view, lambda invitation: invitation.id)


@post(_PATH, opt={"permission": Permission.INVITATIONS_CREATE})
async def invite(
    services: TheServices, principal: ThePrincipal, project_id: PathId, data: JSONBody[NewInvitation]
) -> MadeInvitation:
    """Invite an address into the project."""
    token, invitation = await make_invitation(services, principal, project_id, data)
    return MadeInvitation(invitation.id, token, iso(invitation.expires_ms))


async def make_invitation(
    services: Services, principal: Principal, project_id: str, data: NewInvitation
) -> tuple[str, Invitation]:
    """The token as it is shown once, and the invitation. Raises InvalidRequest, Conflict for who is a member."""
    if not valid_email(data.email):
        raise InvalidRequest("That is no e-mail address.", param="email")
    if not 1 <= data.expires_days <= _MAX_DAYS:
        raise InvalidRequest(f"`expires_days` must be between 1 and {_MAX_DAYS}.", param="expires_days")
    token = sessions.mint()
    now_ms = services.clock.now_ms()
    invitation = Invitation(
        id=f"invitation-{services.ids.uuid7()}",
        project_id=project_id,
        email=data.email.lower(),
        role=data.role,
        token_hash=invitations.hash_token(token, services.pepper),
        invited_by=principal.user.id,
        created_ms=now_ms,
        expires_ms=now_ms + data.expires_days * _DAY_MS,
    )
    await services.invitations.add(invitation, by=principal.actor)
    return token, invitation


@delete(_PATH + "/{invitation_id:str}", opt={"permission": Permission.INVITATIONS_REVOKE})
async def revoke_invitation(
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    invitation_id: PathId,
) -> None:
    """Stop an invitation."""
    now_ms = services.clock.now_ms()
    await services.invitations.revoke(project_id, invitation_id, now_ms, by=principal.actor)


@post("/api/v1/invitations/accept", opt={"permission": Permission.ACCOUNT_CHANGE}, status_code=200)
async def accept(services: TheServices, principal: ThePrincipal, data: JSONBody[InvitationToken]) -> MembershipView:
    """Join a project by an invitation for your own address."""
    invitation = await accept_invitation(services, principal, data.token)
    return MembershipView(invitation.project_id, invitation.role)


async def open_invitation(services: Services, token: str) -> Invitation | None:
    """That of a token, when it can be accepted: into an archived project nobody is let any more."""
    invitation = await services.invitations.find(invitations.hash_token(token, services.pepper))
    if invitation is None or not invitation.open_at(services.clock.now_ms()):
        return None
    project = await services.projects.get(invitation.project_id)
    return invitation if project is not None and project.archived_ms is None else None


async def accept_invitation(services: Services, principal: Principal, token: str) -> Invitation:
    """Raises NotFound for what is no open invitation of theirs, Conflict for who is a member, RateLimited."""
    now_ms = services.clock.now_ms()
    with services.sign_in.guessing(principal.address):
        invitation = await open_invitation(services, token)
        if invitation is None or invitation.email != principal.user.email:
            raise NotFound("There is no such invitation for you.", param="token")
    await services.invitations.accept(invitation, principal.user, now_ms, is_new=False, by=principal.actor)
    return invitation


ROUTES: tuple[HTTPRouteHandler, ...] = (list_invitations, invite, revoke_invitation, accept)
