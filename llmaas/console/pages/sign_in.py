"""`/sign-in`, `/sign-out`: from a password to a session and back."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from llmaas.console.admin.access import ALSO_ONE_TIME, PUBLIC, ThePrincipal
from llmaas.console.admin.services import Services, TheServices
from llmaas.console.admin.sign_in import browser_of, new_cookie, no_cookie, proof_cookie
from llmaas.console.oidc import local_path
from llmaas.console.pages.fields import Fields, read_fields
from llmaas.console.pages.frame import FORM, Page, ThePage
from llmaas.domain.permissions import Permission
from llmaas.domain.sessions import csrf_token

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
    fields.need("email", "password")
    if fields.good:
        browser = browser_of(request, services)
        given = (fields.value("email"), fields.value("password"), fields.value("code"))
        with fields.noting():
            token, user = await services.sign_in.with_password(*given, browser)
            cookies = [new_cookie(token, request, services), proof_cookie(user, request, services)]
            resumed = page.resume(fields.value("typed"), csrf_token(token, services.pepper), cookies)
            return resumed or page.redirect(local_path(fields.value("next", "/")), cookies=cookies)
    return _form(page, services, fields)


@post("/sign-out", opt={"permission": Permission.SESSIONS_REVOKE, **FORM, **ALSO_ONE_TIME})
async def sign_out(
    page: ThePage, services: TheServices, principal: ThePrincipal, request: Request[Any, Any, Any]
) -> Response[Any]:
    await services.sessions.end(principal.user.id, principal.credential_id, by=principal.actor)
    return page.redirect("/sign-in", flash="sign_in.signed_out", cookies=[no_cookie(request, services)])


def _form(page: Page, services: Services, fields: Fields) -> Response[Any]:
    return page.render(
        "sign_in/form.html",
        status=200 if fields.good else 422,
        fields=fields,
        has_open_id=services.open_id is not None,
        ended="",
    )


ROUTES: tuple[HTTPRouteHandler, ...] = (ask, sign_in, sign_out)
