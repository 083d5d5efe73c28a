"""Who may open which page: the declared table, tried out on every page with every kind of reader. And what all answers carry."""

from __future__ import annotations

import httpx
import pytest

from llmaas.admin_api.access import PUBLIC
from llmaas.console.application import build_litestar
from llmaas.console.pages.navigation import ADMIN_PLACES, PROJECT_PLACES
from llmaas.domain.members import Role
from llmaas.domain.permissions import RULES, Permission
from tests.console.matrix import Declared, declared_pages
from tests.console.site import ORIGIN, Admin, Browser, SignedIn

FORM = "application/x-www-form-urlencoded"
HTML = {"accept": "text/html"}
ROLES = {"viewer": Role.VIEWER, "developer": Role.DEVELOPER, "owner": Role.OWNER}
PUBLIC_PAGES = {
    "GET /",
    "GET /docs",
    "GET /docs/{group_name:str}",
    "GET /join",
    "GET /sign-in",
    "GET /sign-in/resume",
    "GET /static/{version:str}/{name:str}",
    "GET /status",
    "POST /join",
    "POST /preferences",
    "POST /sign-in",
    "POST /sign-in/resume",
}


def pages(admin: Admin) -> list[Declared]:
    return list(declared_pages(build_litestar(admin.services)))


async def people(admin: Admin) -> None:
    for name in (*ROLES, "stranger"):
        await admin.user(name)
    await admin.user("root", admin=True)
    await admin.project("lab", **ROLES)
    await admin.project("other", stranger=Role.OWNER)


async def ask(browser: Browser, page: Declared, csrf: str | None = None) -> httpx.Response:
    """As a browser does; a form holds nothing but its token."""
    headers = {**HTML, "origin": ORIGIN}
    if page.method == "GET":
        return await browser.http.get(page.url, headers=headers)
    token = browser.csrf if csrf is None else csrf
    return await browser.http.request(page.method, page.url, headers=headers, data={"csrf": token})


async def test_A01_every_page_declares_who_may_open_it(admin: Admin) -> None:
    found = pages(admin)
    assert {page.name for page in found if page.permission == PUBLIC} == PUBLIC_PAGES
    for page in found:
        assert isinstance(page.permission, Permission) or page.name in PUBLIC_PAGES, page.name
        if page.method == "POST":
            assert page.handler.opt.get("media_type") == FORM, page.name


async def test_every_place_of_the_navigation_is_a_page(admin: Admin) -> None:
    there = {page.path.replace(":str", "") for page in pages(admin) if page.method == "GET"}
    assert [place.name for place in (*PROJECT_PLACES, *ADMIN_PLACES) if place.path not in there] == []


async def test_A01_who_is_not_signed_in_is_asked_to(admin: Admin) -> None:
    await people(admin)
    nobody = admin.client()
    for page in pages(admin):
        if page.permission != PUBLIC:
            answer = await ask(nobody, page)
            if answer.status_code == 401:  # to a form: what was typed is kept, so the question is the answer
                assert 'action="/sign-in"' in answer.text, page.name
            else:
                assert answer.status_code == 303, page.name
                assert answer.headers["location"].startswith("/sign-in"), page.name


@pytest.mark.parametrize("name", [*ROLES, "root", "stranger"])
async def test_A01_each_reader_opens_what_their_role_may(admin: Admin, signed_in: SignedIn, name: str) -> None:
    await people(admin)
    browser = await signed_in(name)
    for page in pages(admin):
        if page.name == "POST /sign-out" or not isinstance(page.permission, Permission):
            continue
        role = ROLES.get(name) if page.of_project else None
        allowed = RULES[page.permission].allows(admin=name == "root", role=role)
        answer = await ask(browser, page)
        if page.of_project and name == "stranger":
            assert answer.status_code == 404, page.name
        elif not allowed:
            assert answer.status_code == 403, page.name
        else:
            assert answer.status_code in {200, 303, 400, 404, 409, 422}, (page.name, answer.status_code)
            assert answer.headers.get("location", "") != "/sign-in", page.name
        admin.clock.advance(60)


async def test_A12_no_form_works_without_its_token(admin: Admin, signed_in: SignedIn) -> None:
    await people(admin)
    browser, other = await signed_in("root"), await signed_in("owner")
    for page in pages(admin):
        if page.method == "POST" and page.permission != PUBLIC:
            for token in ("", "x", other.csrf):
                answer = await ask(browser, page, token)
                assert answer.status_code == 403, page.name
                assert "not of this session" in answer.text, page.name
            foreign = {**HTML, "origin": "https://evil.example"}
            answer = await browser.http.post(page.url, headers=foreign, data={"csrf": browser.csrf})
            assert answer.status_code == 403, page.name


async def test_A03_a_token_opens_no_page(admin: Admin) -> None:
    root = await admin.user("root", admin=True)
    headers = {**HTML, "authorization": await admin.token(root)}
    answer = await admin.client().http.get("/profile", headers=headers)
    assert answer.status_code == 303


async def test_a_one_time_password_leads_to_the_first_step(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("new", admin=True, must_change_password=True)
    browser = await signed_in("new")
    for path in ("/", "/profile/tokens", "/admin/fleet"):
        answer = await browser.http.get(path, headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, "/welcome")


async def test_every_answer_carries_the_policy(admin: Admin) -> None:
    client = admin.client().http
    for path in ("/", "/sign-in", "/nothing", "/profile"):
        headers = (await client.get(path, headers=HTML)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


async def test_programs_get_failures_as_json(admin: Admin) -> None:
    client = admin.client().http
    assert (await client.get("/nothing", headers={"accept": "*/*"})).json()["error"]["code"] == "unknown_path"
    assert (await client.get("/profile", headers={"accept": "*/*"})).status_code == 401


async def test_files_are_kept_for_good_under_their_hash(admin: Admin) -> None:
    client = admin.client().http
    text = (await client.get("/sign-in", headers=HTML)).text
    path = text.split('rel="stylesheet" href="', 1)[1].split('"', 1)[0]
    answer = await client.get(path)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    older = await client.get("/static/0000000000000000/app.css")
    assert (older.status_code, older.headers["cache-control"]) == (200, "no-cache")
    for name in ("nothing.css", "..%2fapp.css", "__init__.py"):
        missing = await client.get(f"/static/0/{name}")
        assert missing.status_code == 404
        assert missing.headers["cache-control"] == "no-store"


async def test_a_flash_of_somebody_else_is_not_shown(admin: Admin) -> None:
    client = admin.client().http
    client.cookies.set("llmaas-flash", "eyJrZXkiOiJzaWduX2luLnNpZ25lZF9vdXQiLCJ2YWx1ZXMiOnt9fQ.00")
    assert "You are signed out." not in (await client.get("/sign-in", headers=HTML)).text
