"""`/api/v1/projects/{id}/keys`: API keys of a project and their limits. A key itself is shown once, when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, patch, post
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
from llmaas.control.context import Services, TheServices
from llmaas.domain.access import model_ids
from llmaas.domain.addresses import parse_network
from llmaas.domain.keys import Key, issue, successor_of
from llmaas.domain.keys import Permission as KeyPermission
from llmaas.domain.limits import Limits
from llmaas.domain.members import Role
from llmaas.domain.permissions import Permission
from llmaas.domain.prices import format_amount, parse_amount
from llmaas.errors import InvalidRequest, NotAllowed, NotFound

_DAY_MS = 86_400_000
_MAX_DAYS = 36_500
_MAX_OVERLAP_S = 366 * 86_400
_MOST = 100
_Whole = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
_ONLY_ADMINS_GIVE = frozenset({KeyPermission.METRICS_READ})
"""What reaches beyond the project."""


class LimitsForm(Form, frozen=True, omit_defaults=True):
    """What is not there is not limited. Budgets are decimals such as "5.00"; days and months are those of UTC."""

    requests_per_minute: _Whole | None = None
    tokens_per_minute: _Whole | None = None
    concurrent_requests: _Whole | None = None
    output_tokens_per_hour: _Whole | None = None
    output_tokens_per_day: _Whole | None = None
    budget_per_day: str | None = None
    budget_per_month: str | None = None
    budget_total: str | None = None


class NewKey(Form, frozen=True):
    """`expires_days`: null for one that does not expire. `models`, `networks`: empty for any. `owner`: the user id of the member
    that it belongs to, null for yourself; only who may change the keys of others gives one to somebody else.
    """

    name: str
    expires_days: int | None = None
    models: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    limits: LimitsForm = LimitsForm()
    permissions: tuple[KeyPermission, ...] = (KeyPermission.INFERENCE_USE,)
    owner: str | None = None


class KeyChanges(Form, frozen=True):
    """What is not sent stays as it is; `limits` are replaced as a whole."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    expires_days: int | msgspec.UnsetType | None = msgspec.UNSET
    models: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    networks: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    limits: LimitsForm | msgspec.UnsetType = msgspec.UNSET


class Rotation(Form, frozen=True):
    """`overlap_s`: how long the old key goes on working."""

    overlap_s: int = 86_400


class KeyView(msgspec.Struct, frozen=True):
    id: str
    project: str
    name: str
    state: str
    created: str
    expires: str | None
    revoked: str | None
    owner: str | None
    models: list[str]
    networks: list[str]
    limits: LimitsForm
    permissions: list[KeyPermission]
    rotated_from: str | None


class MadeKey(msgspec.Struct, frozen=True):
    """`key` is shown only now."""

    key: str
    id: str


def key_view(key: Key, now_ms: int) -> KeyView:
    return KeyView(
        id=key.id,
        project=key.project_id,
        name=key.name,
        state=key.state_at(now_ms),
        created=iso(key.created_ms),
        expires=moment(key.expires_ms),
        revoked=moment(key.revoked_ms),
        owner=key.owner_id,
        models=sorted(key.allowed_models),
        networks=list(key.networks),
        limits=limits_form(key.limits),
        permissions=sorted(key.permissions),
        rotated_from=key.rotated_from,
    )


@get("/api/v1/projects/{project_id:str}/keys", opt={"permission": Permission.KEYS_READ})
async def list_keys(services: TheServices, project_id: PathId, after: After = None, limit: Limit = 50) -> Page[KeyView]:
    """Keys of a project, also those that do not work any more."""
    found = await services.keys.page(project_id, after=after, limit=limit + 1)
    now_ms = services.clock.now_ms()
    return page_of(found, limit, lambda key: key_view(key, now_ms), lambda key: key.id)


@post("/api/v1/projects/{project_id:str}/keys", opt={"permission": Permission.KEYS_CREATE})
async def create_key(
    services: TheServices, principal: ThePrincipal, project_id: PathId, data: JSONBody[NewKey]
) -> MadeKey:
    """Make a key. It belongs to you, or to the member that you name."""
    token, key = await make_key(services, principal, project_id, data)
    return MadeKey(token, key.id)


@get("/api/v1/projects/{project_id:str}/keys/{key_id:str}", opt={"permission": Permission.KEYS_READ})
async def show_key(services: TheServices, project_id: PathId, key_id: PathId) -> Response[KeyView]:
    """One key."""
    return tagged(key_view(await read_key(services, project_id, key_id), services.clock.now_ms()))


@patch("/api/v1/projects/{project_id:str}/keys/{key_id:str}", opt={"permission": Permission.KEYS_CHANGE})
async def change_key(
    services: TheServices,
    principal: ThePrincipal,
    project_id: PathId,
    key_id: PathId,
    data: JSONBody[KeyChanges],
    if_match: IfMatch = None,
) -> Response[KeyView]:
    """Change a key; a developer, their own ones. Workers follow within a second."""
    seen, now_ms = await own_key(services, principal, project_id, key_id), services.clock.now_ms()
    check_match(if_match, key_view(seen, now_ms))
    return tagged(key_view(await alter_key(services, principal, seen, data), now_ms))


@post("/api/v1/projects/{project_id:str}/keys/{key_id:str}/rotate", opt={"permission": Permission.KEYS_CHANGE})
async def rotate_key(
    services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId, data: JSONBody[Rotation]
) -> MadeKey:
    """A successor with the same rights and limits, and what is left of a total budget. The old key stops after the overlap."""
    key = await own_key(services, principal, project_id, key_id)
    token, successor = await replace_key(services, principal, key, data)
    return MadeKey(token, successor.id)


@delete("/api/v1/projects/{project_id:str}/keys/{key_id:str}", opt={"permission": Permission.KEYS_REVOKE})
async def revoke_key(services: TheServices, principal: ThePrincipal, project_id: PathId, key_id: PathId) -> None:
    """Stop a key now; a developer, their own ones. Workers follow within a second."""
    key = await own_key(services, principal, project_id, key_id)
    await services.keys.revoke(key.id, services.clock.now_ms(), by=principal.actor)


async def make_key(services: Services, principal: Principal, project_id: str, data: NewKey) -> tuple[str, Key]:
    """The token, and the key as it is stored. Raises InvalidRequest with the field in `param`, NotAllowed."""
    permissions = frozenset(data.permissions)
    _check_giving(principal, permissions)
    now_ms = services.clock.now_ms()
    draft = Key(
        id="",
        project_id=project_id,
        name=checked_name(data.name),
        secret_hash=b"",
        created_ms=now_ms,
        expires_ms=_expiry(data.expires_days, now_ms),
        allowed_models=model_ids(await services.fleet.load(), data.models),
        permissions=permissions,
        owner_id=await _owner(services, principal, project_id, data.owner),
        limits=_limits(data.limits),
        networks=_networks(data.networks),
    )
    token, key = issue(draft, services.pepper)
    await services.keys.add(key, by=principal.actor)
    return token, key


async def _owner(services: Services, principal: Principal, project_id: str, wanted: str | None) -> str:
    if wanted is None or wanted == principal.user.id:
        return principal.user.id
    if not may_change_others(principal):
        raise NotAllowed("Only an owner of the project makes keys for others.")
    if await services.members.role(project_id, wanted) is None:
        raise InvalidRequest("`owner` must be the id of a member of the project.", param="owner")
    return wanted


def _check_giving(principal: Principal, permissions: frozenset[KeyPermission]) -> None:
    if not principal.user.is_admin and permissions & _ONLY_ADMINS_GIVE:
        raise NotAllowed("Only an admin gives a key that permission.")


async def alter_key(services: Services, principal: Principal, seen: Key, data: KeyChanges) -> Key:
    """Raises InvalidRequest with the field in `param`, Outdated when the key is not as `seen` any more."""
    changes: dict[str, Any] = {}
    if data.name is not msgspec.UNSET:
        changes["name"] = checked_name(data.name)
    if data.expires_days is not msgspec.UNSET:
        changes["expires_ms"] = _expiry(data.expires_days, services.clock.now_ms())
    if data.models is not msgspec.UNSET:
        changes["allowed_models"] = model_ids(await services.fleet.load(), data.models, kept=seen.allowed_models)
    if data.networks is not msgspec.UNSET:
        changes["networks"] = _networks(data.networks)
    if data.limits is not msgspec.UNSET:
        changes["limits"] = _limits(data.limits)
    return await services.keys.change(seen, changes, by=principal.actor)


async def replace_key(services: Services, principal: Principal, key: Key, data: Rotation) -> tuple[str, Key]:
    """A successor's token and the successor. Raises InvalidRequest, Conflict when the key is stopped already."""
    if not 0 <= data.overlap_s <= _MAX_OVERLAP_S:
        raise InvalidRequest(f"`overlap_s` must be between 0 and {_MAX_OVERLAP_S}.", param="overlap_s")
    _check_giving(principal, key.permissions)  # the token of the successor is theirs
    now_ms = services.clock.now_ms()
    token, successor = successor_of(key, now_ms, services.pepper)
    return token, await services.keys.rotate(key.id, successor, now_ms + data.overlap_s * 1_000, by=principal.actor)


async def read_key(services: Services, project_id: str, key_id: str) -> Key:
    """Raises NotFound, with one text for a key that is not there and for one of another project."""
    key = await services.keys.get(key_id)
    if key is None or key.project_id != project_id:
        raise NotFound(f"There is no key `{key_id[:64]}` in this project.", param="key_id")
    return key


async def own_key(services: Services, principal: Principal, project_id: str, key_id: str) -> Key:
    """A key that the caller may do something to. Raises NotFound, NotAllowed."""
    key = await read_key(services, project_id, key_id)
    if not may_change(principal, key):
        raise NotAllowed("That key is somebody else's; an owner of the project may change it.")
    return key


def may_change(principal: Principal, key: Key) -> bool:
    """Of who may change keys at all: owners any, a developer their own."""
    return may_change_others(principal) or key.owner_id == principal.user.id


def may_change_others(principal: Principal) -> bool:
    """Whether keys of others are theirs to make and to change."""
    return principal.user.is_admin or principal.role is Role.OWNER


def _networks(texts: Sequence[str]) -> tuple[str, ...]:
    if len(texts) > _MOST:
        raise InvalidRequest(f"`networks` must be at most {_MOST}.", param="networks")
    try:
        return tuple(dict.fromkeys(map(parse_network, texts)))
    except ValueError as error:
        raise InvalidRequest(f"One of `networks` {error}.", param="networks") from error


def _expiry(days: int | None, now_ms: int) -> int | None:
    if days is None:
        return None
    if not 1 <= days <= _MAX_DAYS:
        raise InvalidRequest(f"`expires_days` must be between 1 and {_MAX_DAYS}.", param="expires_days")
    return now_ms + days * _DAY_MS


def _limits(form: LimitsForm) -> Limits:
    values: dict[str, Any] = msgspec.structs.asdict(form)
    for name in [name for name, value in values.items() if name.startswith("budget_") and value is not None]:
        try:
            values[name] = parse_amount(values[name])
        except ValueError as error:
            raise InvalidRequest(f"`{name}` {error}.", param=f"limits.{name}") from error
    return Limits(**values)


def limits_form(limits: Limits) -> LimitsForm:
    values = dataclasses.asdict(limits)
    money = {k: format_amount(v) for k, v in values.items() if k.startswith("budget_") and v is not None}
    return LimitsForm(**{**values, **money})


ROUTES: tuple[HTTPRouteHandler, ...] = (list_keys, create_key, show_key, change_key, rotate_key, revoke_key)
