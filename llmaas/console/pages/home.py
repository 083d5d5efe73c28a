"""`/`: the way into a project for who is signed in, what this service is for everybody else; and the reader's choices."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.handlers import HTTPRouteHandler

from llmaas.admin_api.access import PUBLIC
from llmaas.console.pages.frame import FORM, LANGUAGE_COOKIE, THEME_COOKIE, THEMES, ThePage
from llmaas.console.pages.model_views import playable
from llmaas.console.texts import LANGUAGES
from llmaas.control.accounts.oidc import local_path
from llmaas.control.context import TheServices

_PROGRAM = """from openai import OpenAI

client = OpenAI(
    base_url="{base_url}",
    api_key="llmaas_…",
)
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "Hello!"}}],
)
print(answer.choices[0].message.content)"""


@get("/", opt={"permission": PUBLIC})
async def home(page: ThePage, services: TheServices) -> Response[Any]:
    if page.principal is None:
        models = [entry.model.id for entry in playable(services.live)]
        program = _PROGRAM.format(base_url=page.api_base_url, model=models[0] if models else "MODEL")
        return page.render("home/landing.html", program=program)
    if page.principal.user.must_change_password:
        return page.redirect("/welcome")
    places = page.project_links
    if places:
        return page.redirect(places[0].path)
    return page.render("home/no_project.html")


@post("/preferences", opt={"permission": PUBLIC, **FORM})
async def choose(page: ThePage, request: Request[Any, Any, Any]) -> Response[Any]:
    """Theme and language; they are kept in the browser."""
    form = await request.form()
    theme, language = str(form.get("theme", "")), str(form.get("language", ""))
    if theme in THEMES:
        page.remember(THEME_COOKIE, theme)
    if language in LANGUAGES:
        page.remember(LANGUAGE_COOKIE, language)
    return page.redirect(local_path(str(form.get("back", "/"))))


ROUTES: tuple[HTTPRouteHandler, ...] = (home, choose)
