"""`/sign-in`, `/sign-out`: from a password to a session and back, and to a form under which a session ended."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.admin_api.access import ALSO_ONE_TIME, PUBLIC, ThePrincipal
from llmaas.admin_api.sign_in import browser_of, new_cookie, no_cookie, proof_cookie
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.control.accounts.oidc import local_path
from llmaas.control.context import Services, TheServices
from llmaas.domain.permissions import Permission
from llmaas.domain.sessions import csrf_token
from llmaas.errors import NotAuthenticated

_OWNER = "console/sign-in"
_KEPT_MS = 5 * 60_000
Next = Annotated[str, QueryParameter(name="next", max_length=1000)]


@get("/sign-in", opt={"permission": PUBLIC})
async def ask(page: ThePage, services: TheServices, next_path: Next = "/") -> Response[Any]:
    target = local_path(next_path)
    if page.principal is not None:
        return page.redirect(target)
    return _form(page, services, Fields(page.t, {"next": target}))


@post("/sign-in", opt={"permission": PUBLIC, **FORM})
async def sign_in(page: ThePage, services: TheServices, request: Request[Any, Any, Any]) -> Response[Any]:
    """Whether there is an account, and what of it is wrong, nobody learns."""
    fields = await read_fields(request, page.t)
    kept = _opened(services, fields.value("kept"))
    fields.need(*(() if kept else ("email", "password")))
    if fields.good:
        browser = browser_of(request, services)
        email, password = kept or (fields.value("email"), fields.value("password"))
        with fields.noting("code"):
            try:
                token, user = await services.sign_in.with_password(email, password, fields.value("code"), browser)
            except NotAuthenticated as error:
                kept = (email, password) if error.param == "code" else kept
                raise
            cookies = [new_cookie(token, request, services), proof_cookie(user, request, services)]
            resumed = page.resume(fields.value("typed"), csrf_token(token, services.pepper), cookies)
            return resumed or page.redirect(local_path(fields.value("next", "/")), cookies=cookies)
    return _form(page, services, fields, kept)


@get("/sign-in/resume", opt={"permission": PUBLIC})
async def ask_for_typed(page: ThePage, next_path: Next = "/") -> Response[Any]:
    """Where the sign-in provider sends who had typed something: the browser has it still, and sends it."""
    return page.render("sign_in/kept.html", target=local_path(next_path))


@post("/sign-in/resume", opt={"permission": PUBLIC, **FORM})
async def resume(page: ThePage, request: Request[Any, Any, Any]) -> Response[Any]:
    fields = await read_fields(request, page.t)
    resumed = page.resume(fields.value("typed"), page.csrf, []) if fields.good else None
    return resumed or page.redirect(local_path(fields.value("next", "/")))


def _sealed(services: Services, email: str, password: str) -> str:
    """Address and password on their way through the browser while it asks for the code: only we can read them."""
    text = json.dumps([services.clock.now_ms(), email, password])
    return urlsafe_b64encode(services.sealer.seal(_OWNER, text)).decode()


def _opened(services: Services, sealed: str) -> tuple[str, str] | None:
    try:
        at_ms, email, password = json.loads(services.sealer.open(_OWNER, urlsafe_b64decode(sealed)))
    except ValueError:
        return None
    return (email, password) if services.clock.now_ms() - at_ms < _KEPT_MS else None


@post("/sign-out", opt={"permission": Permission.SESSIONS_REVOKE, **FORM, **ALSO_ONE_TIME})
async def sign_out(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    await services.sessions.end(principal.user.id, principal.credential_id, by=principal.actor)
    return page.redirect("/sign-in", flash="sign_in.signed_out", cookies=[no_cookie(request, services)])


def _form(page: Page, services: Services, fields: Fields, kept: tuple[str, str] | None = None) -> Response[Any]:
    """`kept`: address and password that are right, when only the code is missing or was wrong."""
    return page.render(
        "sign_in/form.html",
        status=200 if fields.good else 422,
        fields=fields,
        kept_email=kept[0] if kept else "",
        kept=_sealed(services, *kept) if kept else "",
        has_open_id=services.open_id is not None,
        ended="",
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (ask, sign_in, ask_for_typed, resume, sign_out)
