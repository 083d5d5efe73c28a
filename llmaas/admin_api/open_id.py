"""`/api/v1/sign-in/openid`: to the sign-in provider and back."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.admin_api.access import PUBLIC, Connection, is_secure
from llmaas.admin_api.sign_in import browser_of, new_cookie
from llmaas.control.accounts.oidc import PENDING_S, Identity, OpenIdConnect
from llmaas.control.context import Services, TheServices
from llmaas.domain.audit import Actor
from llmaas.domain.users import User
from llmaas.errors import NotAuthenticated, NotFound

PATH = "/api/v1/sign-in/openid"
_PENDING = "llmaas-openid-"
"""How cookies of sign-ins under way begin. Each tab has its own, named by its `state`: the earlier must not be refused."""
_MOST_PENDING = 8


@get(PATH, opt={"permission": PUBLIC}, status_code=302)
async def go_to_provider(
    services: TheServices,
    request: Request[Any, Any, Any],
    next_path: Annotated[str, QueryParameter(name="next", max_length=1000)] = "/",
) -> Response[None]:
    """Send the browser to the sign-in provider. `next`: the path of this service to come back to."""
    url, state, pending = await _provider(services).begin(next_path)
    earlier = [name for name in request.cookies if name.startswith(_PENDING)]  # browsers send the oldest first
    gone = [_pending_cookie(name, "", 0, request, services) for name in earlier[: -(_MOST_PENDING - 1)]]
    cookie = _pending_cookie(_PENDING + state, pending, PENDING_S, request, services)
    return Response(None, status_code=302, headers={"location": url}, cookies=[*gone, cookie])


@get(f"{PATH}/callback", opt={"permission": PUBLIC}, status_code=302)
async def come_back(
    services: TheServices,
    request: Request[Any, Any, Any],
    code: Annotated[str, QueryParameter(max_length=4000)] = "",
    login_state: Annotated[str, QueryParameter(name="state", max_length=200)] = "",
) -> Response[None]:
    """Where the provider sends the browser: opens a session."""
    provider = _provider(services)
    browser = browser_of(request, services)
    with services.sign_in.guessing(browser.address):
        identity, next_path = await provider.finish(request.cookies.get(_PENDING + login_state, ""), login_state, code)
        user = await _user_of(services, provider, identity, browser.address)
    if user.must_change_password:
        # Whom the provider lets in needs no one-time password, and can not be asked for one that they never saw.
        by = Actor("user", user.id, browser.address)
        await services.users.set_password(user.id, "", must_change=False, keep_session=None, by=by, verified=user)
        user = dataclasses.replace(user, password_hash="", must_change_password=False)
    token = await services.sign_in.open_session(user, browser)
    cookies = [new_cookie(token, request, services), _pending_cookie(_PENDING + login_state, "", 0, request, services)]
    return Response(None, status_code=302, headers={"location": next_path}, cookies=cookies)


def _provider(services: Services) -> OpenIdConnect:
    if services.open_id is None:
        raise NotFound("No sign-in provider is set up here.")
    return services.open_id


def _pending_cookie(name: str, value: str, max_age_s: int, request: Connection, services: Services) -> Cookie:
    secure = is_secure(request, services)
    return Cookie(name, value=value, path=PATH, max_age=max_age_s, httponly=True, secure=secure, samesite="lax")


async def _user_of(services: Services, provider: OpenIdConnect, identity: Identity, address: str) -> User:
    """Known by issuer and subject; else by an address that the provider may speak for; else made, when that is allowed."""
    user = await services.users.by_identity(identity.issuer, identity.subject)
    if user is None and identity.email:
        user = await services.users.by_email(identity.email)
        if user is not None:
            by = Actor("user", user.id, address)
            await services.users.link(user.id, identity.issuer, identity.subject, by=by)
            user = dataclasses.replace(user, oidc_issuer=identity.issuer, oidc_subject=identity.subject)
        elif provider.config.create_users:
            user = await _make_user(services, identity, address)
    if user is None or user.disabled_ms is not None:
        raise NotAuthenticated("You have no account here. Ask an administrator for one.")
    return user


async def _make_user(services: Services, identity: Identity, address: str) -> User:
    user = User(
        id=f"user-{services.ids.uuid7()}",
        email=identity.email,
        password_hash="",
        is_admin=False,
        must_change_password=False,
        created_ms=services.clock.now_ms(),
        name=identity.name.strip(),
        oidc_issuer=identity.issuer,
        oidc_subject=identity.subject,
    )
    await services.users.add(user, by=Actor("user", user.id, address))
    return user


ROUTES: tuple[HTTPRouteHandler, ...] = (go_to_provider, come_back)
