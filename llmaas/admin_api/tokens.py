"""`/api/v1/tokens`: personal access tokens of the caller."""

from __future__ import annotations

import msgspec
from litestar import delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody

from llmaas.admin_api.access import Principal, ThePrincipal
from llmaas.admin_api.shapes import After, Form, Limit, Page, PathId, checked_name, moment, page_of
from llmaas.clock import iso
from llmaas.control.context import Services, TheServices
from llmaas.domain import tokens
from llmaas.domain.permissions import Permission
from llmaas.domain.tokens import Token
from llmaas.errors import InvalidRequest

_DAY_MS = 86_400_000
_MAX_DAYS = 3_650


class NewToken(Form, frozen=True):
    """`expires_days`: null for one that does not expire."""

    name: str
    expires_days: int | None = 90


class TokenView(msgspec.Struct, frozen=True):
    id: str
    name: str
    created: str
    used: str | None
    expires: str | None


class MadeToken(msgspec.Struct, frozen=True):
    """`token` is shown only now."""

    token: str
    id: str


def _view(token: Token) -> TokenView:
    return TokenView(token.id, token.name, iso(token.created_ms), moment(token.used_ms), moment(token.expires_ms))


@get("/api/v1/tokens", opt={"permission": Permission.TOKENS_READ})
async def list_tokens(
    services: TheServices, principal: ThePrincipal, after: After = None, limit: Limit = 50
) -> Page[TokenView]:
    """Your tokens."""
    found = await services.tokens.of_user(principal.user.id, after=after, limit=limit + 1)
    return page_of(found, limit, _view, lambda token: token.id)


@post("/api/v1/tokens", opt={"permission": Permission.TOKENS_CREATE})
async def create_token(services: TheServices, principal: ThePrincipal, data: JSONBody[NewToken]) -> MadeToken:
    """Make a token. It may what you may, but for what needs a signed-in browser."""
    text, token = await make_token(services, principal, data)
    return MadeToken(text, token.id)


async def make_token(services: Services, principal: Principal, data: NewToken) -> tuple[str, Token]:
    """The token as it is shown once, and as it is stored. Raises InvalidRequest with the field in `param`."""
    if data.expires_days is not None and not 1 <= data.expires_days <= _MAX_DAYS:
        raise InvalidRequest(f"`expires_days` must be between 1 and {_MAX_DAYS}.", param="expires_days")
    name = checked_name(data.name)
    now_ms = services.clock.now_ms()
    text, token_id, secret_hash = tokens.mint(services.pepper)
    expires_ms = None if data.expires_days is None else now_ms + data.expires_days * _DAY_MS
    token = Token(token_id, principal.user.id, name, secret_hash, now_ms, expires_ms=expires_ms)
    await services.tokens.add(token, by=principal.actor)
    return text, token


@delete("/api/v1/tokens/{token_id:str}", opt={"permission": Permission.TOKENS_REVOKE})
async def revoke_token(services: TheServices, principal: ThePrincipal, token_id: PathId) -> None:
    """Stop a token of yours now."""
    await services.tokens.revoke(principal.user.id, token_id, services.clock.now_ms(), by=principal.actor)


ROUTES: tuple[HTTPRouteHandler, ...] = (list_tokens, create_token, revoke_token)
