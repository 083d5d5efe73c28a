"""`/api/v1/users`: the people of the installation, for admins."""

from __future__ import annotations

import dataclasses

import msgspec
from litestar import Response, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.shapes import (
    After,
    Form,
    IfMatch,
    Limit,
    Page,
    PathId,
    check_match,
    checked_name,
    moment,
    page_of,
    tagged,
)
from llmaas.clock import iso
from llmaas.control.accounts.passwords import one_time
from llmaas.control.context import Services, TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.users import User, valid_email
from llmaas.errors import InvalidRequest, NotFound


class NewUser(Form, frozen=True):
    email: str
    name: str = ""
    is_admin: bool = False


class UserChanges(Form, frozen=True):
    """What is not sent stays as it is."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    is_admin: bool | msgspec.UnsetType = msgspec.UNSET
    disabled: bool | msgspec.UnsetType = msgspec.UNSET


class AnyUser(msgspec.Struct, frozen=True):
    """`password`: whether there is one; `open_id`: whether a sign-in provider speaks for the user."""

    id: str
    email: str
    name: str
    is_admin: bool
    created: str
    disabled: str | None
    must_change_password: bool
    second_factor: bool
    password: bool
    open_id: bool


class MadeUser(msgspec.Struct, frozen=True):
    """`one_time_password` is shown only now, and has to be changed at the first sign-in."""

    id: str
    email: str
    one_time_password: str


def any_user(user: User) -> AnyUser:
    return AnyUser(
        id=user.id,
        email=user.email,
        name=user.name,
        is_admin=user.is_admin,
        created=iso(user.created_ms),
        disabled=moment(user.disabled_ms),
        must_change_password=user.must_change_password,
        second_factor=user.has_second_factor,
        password=bool(user.password_hash),
        open_id=user.oidc_subject is not None,
    )


async def read_user(services: Services, user_id: str) -> User:
    user = await services.users.get(user_id)
    if user is None:
        raise NotFound(f"There is no user `{user_id[:64]}`.", param="user_id")
    return user


@get("/api/v1/users", opt={"permission": Permission.USERS_READ})
async def list_users(services: TheServices, after: After = None, limit: Limit = 50) -> Page[AnyUser]:
    """All users."""
    return page_of(await services.users.page(after=after, limit=limit + 1), limit, any_user, lambda user: user.id)


@get("/api/v1/users/{user_id:str}", opt={"permission": Permission.USERS_READ})
async def show_user(services: TheServices, user_id: PathId) -> Response[AnyUser]:
    """One user."""
    return tagged(any_user(await read_user(services, user_id)))


@post("/api/v1/users", opt={"permission": Permission.USERS_CREATE})
async def create_user(services: TheServices, principal: ThePrincipal, data: JSONBody[NewUser]) -> MadeUser:
    """Add a person; gives a one-time password."""
    return await make_user(services, principal, data)


async def make_user(services: Services, principal: Principal, data: NewUser) -> MadeUser:
    """Raises Conflict when the address is taken, InvalidRequest, RateLimited."""
    if not valid_email(data.email):
        raise InvalidRequest("That is no e-mail address.", param="email")
    password = one_time()
    user = User(
        id=f"user-{services.ids.uuid7()}",
        email=data.email.lower(),
        password_hash=await services.passwords.hash(password),
        is_admin=data.is_admin,
        must_change_password=True,
        created_ms=services.clock.now_ms(),
        name=checked_name(data.name) if data.name else "",
    )
    await services.users.add(user, by=principal.actor)
    return MadeUser(user.id, user.email, password)


@patch("/api/v1/users/{user_id:str}", opt={"permission": Permission.USERS_CHANGE})
async def change_user(
    services: TheServices,
    principal: ThePrincipal,
    user_id: PathId,
    data: JSONBody[UserChanges],
    if_match: IfMatch = None,
) -> Response[AnyUser]:
    """Change name or rights, disable or enable. Sessions and tokens of a disabled user stop at once."""
    seen = await read_user(services, user_id)
    check_match(if_match, any_user(seen))
    return tagged(any_user(await alter_user(services, principal, seen, data)))


async def alter_user(services: Services, principal: Principal, seen: User, data: UserChanges) -> User:
    """Raises Conflict for the last admin, Outdated, InvalidRequest."""
    changes: dict[str, object] = {}
    if data.name is not msgspec.UNSET:
        changes["name"] = checked_name(data.name)
    if data.is_admin is not msgspec.UNSET:
        changes["is_admin"] = data.is_admin
    if data.disabled is not msgspec.UNSET and data.disabled != (seen.disabled_ms is not None):
        changes["disabled_ms"] = services.clock.now_ms() if data.disabled else None
    changed = dataclasses.replace(seen, **changes)  # type: ignore[arg-type]
    await services.users.change(seen, changed, by=principal.actor)
    return changed


@post("/api/v1/users/{user_id:str}/reset-password", opt={"permission": Permission.USERS_CHANGE}, status_code=200)
async def reset_password(services: TheServices, principal: ThePrincipal, user_id: PathId) -> MadeUser:
    """A new one-time password. The user's sessions end; tokens rest until it is changed. The second factor stays."""
    return await new_password(services, principal, await read_user(services, user_id))


async def new_password(services: Services, principal: Principal, user: User) -> MadeUser:
    """Raises RateLimited when many passwords are being computed."""
    password = one_time()
    digest = await services.passwords.hash(password)
    await services.users.set_password(user.id, digest, must_change=True, keep_session=None, by=principal.actor)
    return MadeUser(user.id, user.email, password)


@post("/api/v1/users/{user_id:str}/end-second-factor", opt={"permission": Permission.USERS_CHANGE}, status_code=204)
async def drop_second_factor(services: TheServices, principal: ThePrincipal, user_id: PathId) -> None:
    """For who lost the authenticator and the recovery codes."""
    await services.users.end_second_factor(user_id, by=principal.actor)


ROUTES: tuple[HTTPRouteHandler, ...] = (
    list_users,
    show_user,
    create_user,
    change_user,
    reset_password,
    drop_second_factor,
)
