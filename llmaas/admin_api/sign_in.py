"""`/api/v1/sign-in`, `/sign-up`, `/sign-out`: from a password, or an invitation, to a session and back."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import (
    ALSO_ONE_TIME,
    MAX_PUBLIC_BODY_BYTES,
    PUBLIC,
    Connection,
    ThePrincipal,
    address_of,
    cookie_name,
    is_secure,
    session_cookie,
)
from llmaas.admin_api.account import UserView, user_view
from llmaas.admin_api.invitations import open_invitation
from llmaas.admin_api.shapes import Form, checked_name
from llmaas.control.accounts.sign_in import Browser
from llmaas.control.context import Services, TheServices
from llmaas.domain.audit import Actor
from llmaas.domain.permissions import Permission
from llmaas.domain.sessions import csrf_token
from llmaas.domain.users import User, password_fault
from llmaas.errors import Conflict, InvalidRequest, NotFound

_PROOF_S = 180 * 86_400


class SignInForm(Form, frozen=True):
    """`code`: of the authenticator, or a recovery code, for who has a second factor."""

    email: str
    password: str
    code: str = ""


class SignUpForm(Form, frozen=True):
    """`token`: of the invitation."""

    token: str
    password: str
    name: str


class SignedIn(msgspec.Struct, frozen=True):
    """The session is in a cookie; `csrf_token` goes into the header `x-csrf-token` of each change."""

    user: UserView
    csrf_token: str


class SignInWays(msgspec.Struct, frozen=True):
    password: bool
    open_id: bool


def browser_of(request: Connection, services: Services) -> Browser:
    return Browser(
        address_of(request),
        request.headers.get("user-agent", ""),
        token=session_cookie(request, services),
        proof=request.cookies.get(_proof_name(request, services), ""),
    )


def new_cookie(token: str, request: Connection, services: Services) -> Cookie:
    """No other site's page sends it along with a change, no script reads it; over HTTPS no sibling host can set it."""
    secure = is_secure(request, services)
    return Cookie(cookie_name(secure=secure), value=token, path="/", httponly=True, secure=secure, samesite="lax")


def proof_cookie(user: User, request: Connection, services: Services) -> Cookie:
    """Shows at the next sign-in that this browser was let in before."""
    cookie = new_cookie(services.sign_in.proof(user), request, services)
    cookie.key, cookie.max_age = _proof_name(request, services), _PROOF_S
    return cookie


def _proof_name(request: Connection, services: Services) -> str:
    return "__Host-llmaas-known" if is_secure(request, services) else "llmaas-known"


def no_cookie(request: Connection, services: Services) -> Cookie:
    """Takes the session's cookie away."""
    gone = new_cookie("", request, services)
    gone.max_age = 0
    return gone


@get("/api/v1/sign-in", opt={"permission": PUBLIC}, sync_to_thread=False)
def show_ways(services: TheServices) -> SignInWays:
    """How one can sign in here."""
    return SignInWays(password=True, open_id=services.open_id is not None)


@post("/api/v1/sign-in", opt={"permission": PUBLIC}, status_code=200, request_max_body_size=MAX_PUBLIC_BODY_BYTES)
async def sign_in(
    services: TheServices, request: Request[Any, Any, Any], data: JSONBody[SignInForm]
) -> Response[SignedIn]:
    """Open a session by password."""
    browser = browser_of(request, services)
    token, user = await services.sign_in.with_password(data.email, data.password, data.code, browser)
    body = SignedIn(user_view(user), csrf_token(token, services.pepper))
    return Response(body, cookies=[new_cookie(token, request, services), proof_cookie(user, request, services)])


async def register(services: Services, address: str, data: SignUpForm) -> User:
    """The new user, a member of the invitation's project. Raises NotFound, Conflict, InvalidRequest, RateLimited."""
    now_ms = services.clock.now_ms()
    with services.sign_in.guessing(address):
        invitation = await open_invitation(services, data.token)
        if invitation is None:
            raise NotFound("There is no such invitation.", param="token")
    if await services.users.by_email(invitation.email) is not None:
        raise Conflict("You have an account already: sign in, then accept the invitation.")
    if fault := password_fault(data.password, invitation.email):
        raise InvalidRequest(fault, param="password")
    user = User(
        id=f"user-{services.ids.uuid7()}",
        email=invitation.email,
        password_hash=await services.passwords.hash(data.password),
        is_admin=False,
        must_change_password=False,
        created_ms=now_ms,
        name=checked_name(data.name),
    )
    by = Actor("user", user.id, address)
    await services.invitations.accept(invitation, user, now_ms, is_new=True, by=by)
    return user


@post("/api/v1/sign-up", opt={"permission": PUBLIC}, status_code=201, request_max_body_size=MAX_PUBLIC_BODY_BYTES)
async def sign_up(services: TheServices, request: Request[Any, Any, Any], data: JSONBody[SignUpForm]) -> UserView:
    """Become a user by an invitation. Who is one already accepts it signed in, at `/api/v1/invitations/accept`."""
    return user_view(await register(services, address_of(request), data))


@post("/api/v1/sign-out", opt={"permission": Permission.SESSIONS_REVOKE, **ALSO_ONE_TIME}, status_code=204)
async def sign_out(services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]) -> Response[None]:
    """End this session."""
    await services.sessions.end(principal.user.id, principal.credential_id, by=principal.actor)
    return Response(None, cookies=[no_cookie(request, services)])


ROUTES: tuple[HTTPRouteHandler, ...] = (show_ways, sign_in, sign_up, sign_out)
