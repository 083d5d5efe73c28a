"""`/api/v1/me`: who the caller is, the password, the second factor."""

from __future__ import annotations

import dataclasses

import msgspec
from litestar import delete, get, patch, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import ALSO_ONE_TIME, Principal, ThePrincipal
from llmaas.admin_api.shapes import Form, checked_name
from llmaas.control.context import Services, TheServices
from llmaas.domain.members import Role
from llmaas.domain.permissions import Credential, Permission
from llmaas.domain.users import User, password_fault
from llmaas.errors import InvalidRequest


class UserView(msgspec.Struct, frozen=True):
    id: str
    email: str
    name: str
    is_admin: bool
    must_change_password: bool
    second_factor: bool


class MembershipView(msgspec.Struct, frozen=True):
    project: str
    role: Role


class Me(msgspec.Struct, frozen=True):
    """`csrf_token`: what a browser sends as `x-csrf-token` with each change; empty for a token."""

    user: UserView
    credential: Credential
    csrf_token: str
    projects: list[MembershipView]


class NewName(Form, frozen=True):
    name: str


class NewPassword(Form, frozen=True):
    current: str
    password: str


class CurrentPassword(Form, frozen=True):
    password: str


class Code(Form, frozen=True):
    code: str


class PendingSecondFactor(msgspec.Struct, frozen=True):
    """For the authenticator: the secret in base32, and the same as an `otpauth://` address. Shown once."""

    secret: str
    uri: str


class RecoveryCodes(msgspec.Struct, frozen=True):
    """Each signs in once in place of a code. Shown once."""

    recovery_codes: list[str]


def user_view(user: User) -> UserView:
    return UserView(
        id=user.id,
        email=user.email,
        name=user.name,
        is_admin=user.is_admin,
        must_change_password=user.must_change_password,
        second_factor=user.has_second_factor,
    )


@get("/api/v1/me", opt={"permission": Permission.ACCOUNT_READ})
async def show_me(services: TheServices, principal: ThePrincipal) -> Me:
    """Who you are, and in which projects."""
    memberships = await services.members.of_user(principal.user.id)
    return Me(
        user_view(principal.user),
        principal.credential,
        principal.csrf_token,
        [MembershipView(member.project_id, member.role) for member in memberships],
    )


@patch("/api/v1/me", opt={"permission": Permission.ACCOUNT_CHANGE})
async def change_me(services: TheServices, principal: ThePrincipal, data: JSONBody[NewName]) -> UserView:
    """Change the name that others see of you."""
    return user_view(await rename(services, principal, data.name))


async def rename(services: Services, principal: Principal, name: str) -> User:
    """Raises InvalidRequest for what cannot be shown on one line, Outdated."""
    changed = dataclasses.replace(principal.user, name=checked_name(name))
    await services.users.change(principal.user, changed, by=principal.actor)
    return changed


@put("/api/v1/me/password", opt={"permission": Permission.ACCOUNT_CHANGE, **ALSO_ONE_TIME}, status_code=204)
async def change_password(services: TheServices, principal: ThePrincipal, data: JSONBody[NewPassword]) -> None:
    """Change your password. Your other sessions end."""
    await replace_password(services, principal, data)


async def replace_password(services: Services, principal: Principal, data: NewPassword) -> None:
    """Raises NotAuthenticated for a wrong `current`, InvalidRequest for a password that cannot be one, RateLimited."""
    user = principal.user
    await services.sign_in.confirm(user, data.current)
    if fault := password_fault(data.password, user.email):
        raise InvalidRequest(fault, param="password")
    if data.password == data.current:
        raise InvalidRequest("That is the password that you have.", param="password")
    digest = await services.passwords.hash(data.password)
    await services.users.set_password(
        user.id, digest, must_change=False, keep_session=principal.credential_id, by=principal.actor, verified=user
    )


@post("/api/v1/me/second-factor", opt={"permission": Permission.ACCOUNT_CHANGE}, status_code=200)
async def begin_second_factor(
    services: TheServices, principal: ThePrincipal, data: JSONBody[CurrentPassword]
) -> PendingSecondFactor:
    """A new secret for an authenticator. It is in force once you confirm it with a code."""
    await services.sign_in.confirm(principal.user, data.password)
    secret, uri = await services.sign_in.second_factor.begin(principal.user, by=principal.actor)
    return PendingSecondFactor(secret, uri)


@post("/api/v1/me/second-factor/confirm", opt={"permission": Permission.ACCOUNT_CHANGE}, status_code=200)
async def confirm_second_factor(services: TheServices, principal: ThePrincipal, data: JSONBody[Code]) -> RecoveryCodes:
    """Put the new second factor in force. Your other sessions end."""
    with services.sign_in.guessing(principal.address):
        codes = await services.sign_in.second_factor.confirm(
            principal.user, data.code, keep_session=principal.credential_id, by=principal.actor
        )
    return RecoveryCodes(codes)


@delete("/api/v1/me/second-factor", opt={"permission": Permission.ACCOUNT_CHANGE})
async def end_second_factor(services: TheServices, principal: ThePrincipal, data: JSONBody[CurrentPassword]) -> None:
    """Sign in without a code again."""
    await services.sign_in.confirm(principal.user, data.password)
    await services.users.end_second_factor(principal.user.id, by=principal.actor, verified=principal.user)


ROUTES: tuple[HTTPRouteHandler, ...] = (
    show_me,
    change_me,
    change_password,
    begin_second_factor,
    confirm_second_factor,
    end_second_factor,
)
