"""What all pages share: layout with navigation, language, theme, flash messages and the form token. `Page` is one answer.

A page's handler takes `page: ThePage` and ends with `page.render(…)` or `page.redirect(…)`. How: docs/console.md.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from urllib.parse import quote, urlsplit

import jinja2
import msgspec
from litestar import MediaType, Request, Response
from litestar.datastructures import Cookie, FormMultiDict
from litestar.di import NamedDependency

from llmaas.admin_api.access import FORM_TYPE, Connection, Principal, is_secure, session_cookie
from llmaas.console.pages.fields import RESUMED, Fields, said_of, typed_in
from llmaas.console.pages.navigation import ADMIN_PLACES, PROJECT_PLACES, Link, Place, links
from llmaas.console.pages.qr import qr_svg
from llmaas.console.pages.static_files import StaticFiles
from llmaas.console.pages.words_of_time import shown_day, shown_moment, shown_time
from llmaas.console.texts import LANGUAGES, Texts, Words, choose_language
from llmaas.control.accounts.oidc import local_path
from llmaas.control.context import Services
from llmaas.domain.members import Role
from llmaas.domain.permissions import RULES, Permission
from llmaas.domain.prices import NANO, format_amount
from llmaas.domain.projects import Project, unknown_project
from llmaas.errors import LlmaasError, NotAllowed, NotAuthenticated
from llmaas.web.errors import render as render_error

FORM = {"media_type": FORM_TYPE}
"""Goes into the `opt` of a handler that takes a form."""
THEMES = ("auto", "light", "dark")
THEME_COOKIE, LANGUAGE_COOKIE, PROJECT_COOKIE = "llmaas-theme", "llmaas-language", "llmaas-project"
_FLASH_COOKIE = "llmaas-flash"
_FLASH_S = 60
_TYPED, _TYPED_S = "typed", 3_600
_REVEALED_COOKIE = "llmaas-revealed"
_REVEALED_S = 600
_IN_PATHS = "%/:?#[]@!$&'()*+,;="
_YEAR_S = 365 * 86_400
_MOST_PROJECTS = 50
_EXPLAINED = frozenset({400, 403, 404, 405, 429, 503})


class Flash(msgspec.Struct, frozen=True):
    """A text that is shown once, on the next page. `tone`: as notices have it."""

    key: str
    values: dict[str, str]
    tone: str = "good"


class _Typed(msgspec.Struct, frozen=True):
    path: str
    fields: list[tuple[str, str]]
    until_ms: int


class _Revealed(msgspec.Struct, frozen=True):
    until_ms: int
    secrets: dict[str, str]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Made once: templates, words, files, and which addresses there are."""

    templates: jinja2.Environment
    texts: Texts
    static_files: StaticFiles
    paths: frozenset[str]


def make_surroundings(paths: frozenset[str]) -> Surroundings:
    """`paths`: of all pages, as they are declared. The navigation shows places that are among them."""
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("llmaas.console", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return Surroundings(templates, Texts(), StaticFiles(), frozenset(path.replace(":str", "") for path in paths))


class Page:
    """An answer in the making. `t` are the words of the reader's language. `principal`: None for who is not signed in.

    `project`: that of the address; elsewhere the one that the reader was in last, None for who has none. `role`: in it.
    """

    def __init__(
        self,
        request: Connection,
        services: Services,
        surroundings: Surroundings,
        *,
        project: Project | None = None,
        projects: Sequence[Project] = (),
        role: Role | None = None,
    ) -> None:
        self.request = request
        self.services = services
        self.principal: Principal | None = getattr(request.state, "principal", None)
        self.project = project
        self.projects = projects
        self.role = role
        self.faulty: list[tuple[str, str, str]] = []
        """Name, label and fault of fields, noted while they are drawn, for the summary above them."""
        self._surroundings = surroundings
        self._cookies: list[Cookie] = []
        language = choose_language(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language", ""))
        self.t: Words = surroundings.texts.words(language)
        theme = request.cookies.get(THEME_COOKIE, "")
        self.theme = theme if theme in THEMES else THEMES[0]

    @property
    def language(self) -> str:
        return self.t.language

    @property
    def path(self) -> str:
        return str(self.request.scope["path"])

    @property
    def csrf(self) -> str:
        return self.principal.csrf_token if self.principal is not None else ""

    @property
    def has_session(self) -> bool:
        """Whether somebody seems to be signed in, also where no route asked who it is."""
        return self.principal is not None or session_cookie(self.request, self.services) is not None

    @property
    def base_url(self) -> str:
        """Where programs find this service, without a slash at the end."""
        scheme = "https" if is_secure(self.request, self.services) else "http"
        return self.services.public_url or f"{scheme}://{self.request.headers.get('host', '')}"

    @property
    def api_base_url(self) -> str:
        """What a client of the OpenAI API is pointed at."""
        return f"{self.base_url}/v1"

    @property
    def project_links(self) -> list[Link]:
        return self._links(PROJECT_PLACES) if self.project is not None else []

    @property
    def admin_links(self) -> list[Link]:
        return self._links(ADMIN_PLACES)

    def may(self, permission: Permission | str) -> bool:
        """Whether the reader may do that in `project`."""
        if self.principal is None:
            return False
        return RULES[Permission(permission)].allows(admin=self.principal.user.is_admin, role=self.role)

    def has(self, path: str) -> bool:
        """Whether there is a page at an address, as routes declare it: `/projects/{project_id}/keys`."""
        return path in self._surroundings.paths

    def in_project(self, project: Project) -> str:
        """The address of the present place in another project."""
        here = next((link for link in self.project_links if link.is_here), None)
        if here is None:
            return f"/?project={quote(project.id)}"
        return f"/projects/{quote(project.id)}/{here.path.rpartition('/')[2]}"

    def number(self, value: float, places: int = 0) -> str:
        return self.t.number(value, places)

    def money(self, nano: int, currency: str | None = None) -> str:
        """`12.34 EUR`, as exact as it is."""
        whole, _, places = format_amount(abs(nano)).partition(".")
        sign = "-" if nano < 0 else ""
        return f"{sign}{self.t.number(int(whole))}{self.t.point}{places} {currency or self.services.currency}"

    def rounded(self, nano: int, currency: str | None = None) -> str:
        """Money where the whole of it is meant: two places, four below one unit. Half up, away from zero."""
        places = 2 if abs(nano) >= NANO else 4
        unit = NANO // 10**places
        units = (abs(nano) + unit // 2) // unit
        sign = "-" if nano < 0 and units else ""
        whole, rest = divmod(units, 10**places)
        # Cents are enough for what is exact in cents, such as nothing.
        shown = (
            f"{rest // 100:02d}" if places > 2 and not rest % 100 and not nano % (100 * unit) else f"{rest:0{places}d}"
        )
        return f"{sign}{self.t.number(whole)}{self.t.point}{shown} {currency or self.services.currency}"

    def render(
        self, template: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any
    ) -> Response[Any]:
        """The template's page. It sees `values`, and what docs/console.md lists."""
        flash = self._take_flash()
        body = self._surroundings.templates.get_template(template).render(**self._words(flash), **values)
        if self.project is not None and "project_id" in self.request.path_params:
            self.remember(PROJECT_COOKIE, self.project.id)
        return Response(
            body,
            status_code=status,
            headers=dict(headers or {}),
            media_type=MediaType.HTML,
            cookies=self._cookies,
        )

    def redirect(
        self,
        path: str,
        *,
        flash: str | None = None,
        tone: str = "good",
        cookies: Sequence[Cookie] = (),
        **values: object,
    ) -> Response[Any]:
        """To another page of ours by GET. `flash`: the key of a text to show there, with `values`."""
        if flash is not None:
            told = Flash(flash, {name: str(value) for name, value in values.items()}, tone)
            body = urlsafe_b64encode(msgspec.json.encode(told)).decode().rstrip("=")
            self._cookies.append(self._cookie(_FLASH_COOKIE, f"{body}.{self._sign(body)}", _FLASH_S))
        # Ids may hold any letters, a header none beyond ASCII (RFC 3986); what is quoted already stays so.
        headers = {"location": quote(path, safe=_IN_PATHS)}
        return Response(None, status_code=303, headers=headers, cookies=[*self._cookies, *cookies])

    def reveal(self, path: str, **secrets: str) -> Response[Any]:
        """To a page of ours by GET that shows what was just made and is stored nowhere. Loaded anew it shows that again, and makes
        nothing. On the way it is sealed in a cookie that only this page gets, from this user, for some minutes.
        """
        if self.principal is None:
            raise RuntimeError("only who is signed in makes secrets")
        told = _Revealed(self.services.clock.now_ms() + _REVEALED_S * 1_000, secrets)
        sealed = self.services.sealer.seal(self._reveals(path), msgspec.json.encode(told).decode())
        self._cookies.append(
            self._cookie(
                _REVEALED_COOKIE, urlsafe_b64encode(sealed).decode(), _REVEALED_S, path=quote(path, safe=_IN_PATHS)
            )
        )
        return self.redirect(path)

    def revealed(self) -> dict[str, str]:
        """What `reveal` sent to this page; empty when it is too late, or was sent to somebody else."""
        text = self.request.cookies.get(_REVEALED_COOKIE, "")
        try:
            opened = self.services.sealer.open(self._reveals(self.path), urlsafe_b64decode(text.encode()))
        except ValueError:
            return {}
        told = msgspec.json.decode(opened, type=_Revealed)
        return told.secrets if self.services.clock.now_ms() < told.until_ms else {}

    def resume(self, text: str, csrf: str, cookies: Sequence[Cookie]) -> Response[Any] | None:
        """A form that `_sign_in_again` kept, on its way back to who has signed in; None when there is none, or it is too late.
        `csrf`: of the new session.
        """
        try:
            kept = msgspec.json.decode(self.services.sealer.open(_TYPED, urlsafe_b64decode(text.encode())), type=_Typed)
        except ValueError:
            return None
        if kept.until_ms <= self.services.clock.now_ms():
            return None
        self._cookies += cookies
        return self.render("sign_in/resume.html", path=kept.path, typed=kept.fields, form_token=csrf, resumed=RESUMED)

    def note_fault(self, name: str, label: str, fault: str) -> None:
        self.faulty.append((name, label, fault))

    def remember(self, name: str, value: str) -> None:
        """Keep a choice of the reader in this browser for a year."""
        self._cookies.append(self._cookie(name, value, _YEAR_S))

    def _words(self, flash: Flash | None) -> dict[str, Any]:
        return {
            "page": self,
            "t": self.t,
            "tn": self.t.count,
            "number": self.number,
            "money": self.money,
            "rounded": self.rounded,
            "time": shown_time,
            "moment": shown_moment,
            "day": shown_day,
            "qr": qr_svg,
            "static": self._surroundings.static_files.url,
            "languages": LANGUAGES,
            "themes": THEMES,
            "flash": flash,
            "csrf": self.csrf,
        }

    def _links(self, places: Sequence[Place]) -> list[Link]:
        if self.principal is None:
            return []
        known = [place for place in places if place.path in self._surroundings.paths]
        project_id = quote(self.project.id) if self.project is not None else ""
        return links(known, self.path, project_id=project_id, admin=self.principal.user.is_admin, role=self.role)

    def _reveals(self, path: str) -> str:
        return f"reveal:{self.principal.user.id if self.principal is not None else ''}:{path}"

    def _cookie(self, name: str, value: str, max_age_s: int, path: str = "/") -> Cookie:
        secure = is_secure(self.request, self.services)
        return Cookie(name, value=value, path=path, max_age=max_age_s, httponly=True, secure=secure, samesite="lax")

    def _take_flash(self) -> Flash | None:
        body, _, signature = self.request.cookies.get(_FLASH_COOKIE, "").partition(".")
        if not body or not hmac.compare_digest(signature.encode(), self._sign(body).encode()):
            return None
        self._cookies.append(self._cookie(_FLASH_COOKIE, "", 0))
        return msgspec.json.decode(urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Flash)

    def _sign(self, body: str) -> str:
        """Nobody else can make us say something."""
        key = self.services.pepper
        return blake2b(body.encode(errors="replace"), digest_size=16, key=key, person=b"flash").hexdigest()


ThePage = NamedDependency[Page]
"""How a handler declares its parameter `page`."""


async def open_page(request: Request[Any, Any, Any], services: Services, surroundings: Surroundings) -> Page:
    """Raises NotFound for a project that is not there."""
    principal: Principal | None = getattr(request.state, "principal", None)
    if principal is None:
        return Page(request, services, surroundings)
    user, role = principal.user, principal.role
    projects = await services.projects.page(of_user=user.id, after=None, limit=_MOST_PROJECTS)
    if not projects and user.is_admin:
        projects = await services.projects.page(of_user=None, after=None, limit=_MOST_PROJECTS)
    wanted = request.path_params.get("project_id")
    chosen = wanted or request.query_params.get("project") or request.cookies.get(PROJECT_COOKIE, "")
    project = next((one for one in projects if one.id == chosen), None)
    if project is None and chosen and (wanted or user.is_admin):  # the guard let them into the wanted one
        project = await services.projects.get(chosen)
    if project is None and wanted:
        raise unknown_project(wanted)
    if project is None and projects:
        project = projects[0]
    if project is not None and not wanted:
        role = await services.members.role(project.id, user.id)
    return Page(request, services, surroundings, project=project, projects=projects, role=role)


def error_page(
    request: Request[Any, Any, Any], services: Services, surroundings: Surroundings, error: LlmaasError
) -> Response[Any]:
    """What a browser gets in place of a page. Who has to sign in, or to change a password first, is sent there."""
    page = Page(request, services, surroundings)
    if isinstance(error, NotAuthenticated) and page.principal is None:
        if request.method not in {"GET", "HEAD"} and page.path != "/sign-out":
            return _sign_in_again(page)
        wanted = page.path + (f"?{request.url.query}" if request.url.query else "")
        target = local_path(wanted) if page.path != "/sign-out" else "/"
        return page.redirect("/sign-in" if target == "/" else f"/sign-in?next={quote(target, safe='/')}")
    must_change = page.principal is not None and page.principal.user.must_change_password
    if isinstance(error, NotAllowed) and must_change and page.path != "/welcome":
        return page.redirect("/welcome")
    status, headers, _ = render_error(error)
    explained = status if status in _EXPLAINED else 500 if status >= 500 else 400
    headers.pop("www-authenticate", None)
    return page.render(
        "errors/page.html",
        status=status,
        headers=headers,
        explained=explained,
        message=said_of(page.t, error),
    )


def _sign_in_again(page: Page) -> Response[Any]:
    """For who sent a form after the session had ended. What was typed goes along, sealed; it is filled in again, not sent."""
    came_from = urlsplit(page.request.headers.get("referer", ""))
    own = came_from.netloc == page.request.headers.get("host", "")
    values = {"next": local_path(f"{came_from.path}?{came_from.query}".rstrip("?")) if own else "/"}
    typed = typed_in(getattr(page.request.state, "typed", FormMultiDict([])))
    if typed:
        kept = _Typed(page.path, typed, page.services.clock.now_ms() + _TYPED_S * 1_000)
        sealed = page.services.sealer.seal(_TYPED, msgspec.json.encode(kept).decode())
        values["typed"] = urlsafe_b64encode(sealed).decode()
    return page.render(
        "sign_in/form.html",
        status=401,
        fields=Fields(page.t, values),
        has_open_id=page.services.open_id is not None,
        ended="sign_in.ended_typed" if "typed" in values else "sign_in.ended",
    )


def back_to_sign_in(
    request: Request[Any, Any, Any], services: Services, surroundings: Surroundings, error: LlmaasError
) -> Response[Any]:
    """What a browser gets that the sign-in provider did not sign in: the form again, with why and what to do."""
    page = Page(request, services, surroundings)
    status, _, body = render_error(error)
    if status >= 500:
        return page.redirect("/sign-in", flash="sign_in.open_id_away", tone="bad")
    return page.redirect("/sign-in", flash="sign_in.open_id_failed", tone="bad", why=page.t.said(body.error.message))
