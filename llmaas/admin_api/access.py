"""Who calls the admin API, and may they: the guard before every route. A route without a permission lets nobody in.

A caller is known by a personal access token in `authorization`, or by the session cookie of a browser; a request by
cookie that changes something also shows the CSRF token and comes from a page of ours.
"""

from __future__ import annotations

import contextlib
import hmac
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection, Request
from litestar.di import NamedDependency
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler

from llmaas.control.context import Services
from llmaas.domain import sessions, tokens
from llmaas.domain.audit import Actor
from llmaas.domain.members import Role
from llmaas.domain.permissions import RULES, Credential, Permission
from llmaas.domain.projects import unknown_project
from llmaas.domain.standing import Standing
from llmaas.domain.users import User
from llmaas.errors import NotAllowed, NotAuthenticated, RateLimited, UnsupportedMediaType

PUBLIC = "public"
MAX_PUBLIC_BODY_BYTES = 64 * 1024
"""Of requests of strangers: what they send is held before anybody knows who they are."""
CSRF_HEADER = "x-csrf-token"
CSRF_FIELD = "csrf"
FORM_TYPE = "application/x-www-form-urlencoded"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
ALSO_ONE_TIME = {"also_one_time": True}
"""On routes for who still has a one-time password; besides they may look at their account."""
Connection = ASGIConnection[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls. `role`: theirs in the project of the route, None without one. `credential_id`: of the session or token."""

    user: User
    credential: Credential
    credential_id: str
    csrf_token: str
    role: Role | None
    address: str

    @property
    def actor(self) -> Actor:
        if self.credential is Credential.TOKEN:
            return Actor("token", f"{self.user.id}/{self.credential_id}", self.address)
        return Actor("user", self.user.id, self.address)


ThePrincipal = NamedDependency[Principal]
"""How a handler declares its parameter `principal`."""


def address_of(connection: Connection) -> str:
    return connection.client.host if connection.client is not None else ""


def is_secure(connection: Connection, services: Services) -> bool:
    """Whether the browser speaks HTTPS with us, be it through a proxy."""
    return services.public_url.startswith("https://") or connection.scope["scheme"] == "https"


def cookie_name(*, secure: bool) -> str:
    return "__Host-llmaas" if secure else "llmaas-session"


def session_cookie(connection: Connection, services: Services) -> str | None:
    """The token in the request's session cookie."""
    return connection.cookies.get(cookie_name(secure=is_secure(connection, services)))


class Guard:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def check(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Leaves the Principal in the request's state, and holds what the request writes to what it is let in on here: however
        long the handler waits, nothing is done on the word of who may not do it any more. Raises what the answer has to say.
        """
        needed = handler.opt.get("permission")
        _check_media_type(connection, handler)
        if needed == PUBLIC:
            self._check_origin(connection, required=False)
            if is_page(connection):
                await self._recognise(connection)
            return
        if not isinstance(needed, Permission):
            raise _unknown()
        user, credential, credential_id, csrf = await self._signed_in(connection, handler)
        if not _is_safe(connection) and isinstance(connection, Request):
            # A body may take minutes to arrive. Who was signed in before it may not be any more, or have lost a role.
            await connection.body()
            user, credential, credential_id, csrf = await self._signed_in(connection, handler)
        role = await self._role(connection, user)
        connection.state.principal = Principal(user, credential, credential_id, csrf, role, address_of(connection))
        rule = RULES[needed]
        if not rule.allows(admin=user.is_admin, role=role):
            raise NotAllowed(f"You may not do that here: it needs the permission `{needed}`.")
        if credential not in rule.credentials:
            raise NotAllowed("That cannot be done by a personal access token; sign in to do it.")
        also_one_time = needed is Permission.ACCOUNT_READ or handler.opt.get("also_one_time")
        if user.must_change_password and not also_one_time:
            raise NotAllowed("Change your one-time password first.")
        project_id = connection.path_params.get("project_id")
        self._services.hold_to(Standing(user, credential, credential_id, project_id, role))

    async def _signed_in(self, connection: Connection, handler: BaseRouteHandler) -> tuple[User, Credential, str, str]:
        """Leaves in the request's state what a form of ours holds whose session has ended, for who signs in again. One that is
        but a button is not among them: its handler reads no request.
        """
        try:
            return await self._identify(connection)
        except NotAuthenticated:
            await self._keep_typed(connection, handler)
            raise

    async def _keep_typed(self, connection: Connection, handler: BaseRouteHandler) -> None:
        reads = "request" in handler.parsed_fn_signature.parameters
        if _is_safe(connection) or not reads or not is_page(connection) or not isinstance(connection, Request):
            return
        with contextlib.suppress(NotAllowed, HTTPException):
            self._check_origin(connection, required=True)
            connection.state.typed = await connection.form()

    async def _recognise(self, connection: Connection) -> None:
        """A public page also greets who is signed in; to everybody else it is just public."""
        if session_cookie(connection, self._services) and "authorization" not in connection.headers:
            with contextlib.suppress(NotAuthenticated, NotAllowed, RateLimited):
                user, credential, credential_id, csrf = await self._identify(connection)
                address = address_of(connection)
                connection.state.principal = Principal(user, credential, credential_id, csrf, None, address)

    async def _identify(self, connection: Connection) -> tuple[User, Credential, str, str]:
        given = connection.headers.getall("authorization", [])
        if given and not is_page(connection):
            token, user = await self._token(given, address_of(connection))
            return user, Credential.TOKEN, token.id, ""
        cookie = session_cookie(connection, self._services)
        if not cookie:
            raise _unknown()
        session, user = await self._session(cookie, address_of(connection))
        csrf = sessions.csrf_token(cookie, self._services.pepper)
        if not _is_safe(connection):
            self._check_origin(connection, required=True)
            if not hmac.compare_digest((await _shown_csrf(connection)).encode(), csrf.encode()):
                raise NotAllowed(
                    "The form is not of this session. Load the page again."
                    if is_page(connection)
                    else f"The header `{CSRF_HEADER}` is missing or wrong; `GET /api/v1/me` tells it."
                )
        return user, Credential.SESSION, session.id, csrf

    async def _token(self, given: list[str], address: str) -> tuple[tokens.Token, User]:
        scheme, _, text = given[0].partition(" ")
        token_id = tokens.parse(text.strip())
        if len(given) != 1 or scheme.lower() != "bearer" or token_id is None:
            raise _unknown()
        found = await self._services.tokens.find(token_id)
        if found is None:
            raise self._guessed(address)
        token, user = found
        now_ms = self._services.clock.now_ms()
        good = hmac.compare_digest(token.secret_hash, tokens.hash_token(text.strip(), self._services.pepper))
        if not good or not token.usable_at(now_ms) or user.disabled_ms is not None:
            raise self._guessed(address)
        if token.used_ms is None or now_ms - token.used_ms >= tokens.USED_EVERY_MS:
            await self._services.tokens.used(token.id, now_ms)
        return token, user

    async def _session(self, cookie: str, address: str) -> tuple[sessions.Session, User]:
        found = await self._services.sessions.find(sessions.hash_token(cookie, self._services.pepper))
        if found is None:
            raise self._guessed(address)
        session, user = found
        now_ms = self._services.clock.now_ms()
        if not session.usable_at(now_ms, self._services.session_idle_ms) or user.disabled_ms is not None:
            raise _unknown()
        if now_ms - session.seen_ms >= sessions.SEEN_EVERY_MS:
            await self._services.sessions.seen(session.id, now_ms)
        return session, user

    def _guessed(self, address: str) -> NotAuthenticated:
        """What to raise for a credential that is nobody's. Who shows a good one is never refused for the guesses of others
        at the same address. Raises RateLimited itself.
        """
        self._services.guesses.spend(address)
        return _unknown()

    async def _role(self, connection: Connection, user: User) -> Role | None:
        project_id = connection.path_params.get("project_id")
        if project_id is None:
            return None
        role = await self._services.members.role(project_id, user.id)
        if role is None and not user.is_admin:
            raise unknown_project(project_id)
        return role

    def _check_origin(self, connection: Connection, *, required: bool) -> None:
        if _is_safe(connection):
            return
        origins = connection.headers.getall("origin", [])
        if not origins and not required:
            return
        if self._services.public_url:
            own = urlsplit(self._services.public_url)
            good = origins == [f"{own.scheme}://{own.netloc}"]
        else:
            host = connection.headers.get("host", "")
            good = bool(host) and origins in ([f"http://{host}"], [f"https://{host}"])
        if not good:
            message = "The header `origin` is missing or names another address, so the request does not come from a page of this service."
            raise NotAllowed(message, hint="behind another address, set public_url to the one that people type")


def principal_of(connection: Connection) -> Principal:
    principal: Principal = connection.state.principal
    return principal


def is_page(connection: Connection) -> bool:
    """Whether the address is one of the console's pages, and not of the API for programs."""
    return not connection.scope["path"].startswith("/api/")


async def _shown_csrf(connection: Connection) -> str:
    """A script of ours sends the token in a header, a form of ours in a field."""
    shown = connection.headers.get(CSRF_HEADER)
    if shown is None and is_page(connection) and isinstance(connection, Request):
        shown = (await connection.form()).get(CSRF_FIELD)
    return shown if isinstance(shown, str) else ""


def _is_safe(connection: Connection) -> bool:
    return connection.scope.get("method") in _SAFE


def _check_media_type(connection: Connection, handler: BaseRouteHandler) -> None:
    """A page of somebody else can send a form without being asked, but not JSON; forms of ours carry the token."""
    if _is_safe(connection):
        return
    wanted = handler.opt.get("media_type", "application/json")
    has_body = connection.headers.get("content-length", "0") != "0" or "transfer-encoding" in connection.headers
    given = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if has_body and given != wanted:
        raise UnsupportedMediaType(f"Send `content-type: {wanted}`.")


def _unknown() -> NotAuthenticated:
    return NotAuthenticated("Sign in, or send a valid personal access token as 'Authorization: Bearer TOKEN'.")
