"""Sign-in through OpenID Connect, against a real provider on loopback, honest and hostile."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from llmaas.control.accounts.oidc import OpenIdConfig, OpenIdConnect, local_path
from llmaas.storage.secrets import SecretBox
from tests.console.site import ORIGIN, PEPPER, Admin, Browser
from tests.fakes.oidc import CLIENT_ID, CLIENT_SECRET, FakeOidc

START = "/sign-in/openid"
BACK = "/sign-in/openid/callback"


@pytest.fixture
async def provider(admin: Admin) -> AsyncIterator[FakeOidc]:
    async with FakeOidc(admin.clock.now_ms() // 1000) as running:
        yield running


def browser_of(admin: Admin, provider: FakeOidc, **config: Any) -> Browser:
    settings = OpenIdConfig(
        issuer=provider.issuer,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        redirect_uri=f"{ORIGIN}/api/v1{BACK}",
        email_domains=("example.org",),
        create_users=True,
    )
    open_id = OpenIdConnect(dataclasses.replace(settings, **config), SecretBox(PEPPER), admin.clock)
    return admin.client(dataclasses.replace(admin.services, open_id=open_id))


async def sign_in(browser: Browser, provider: FakeOidc, next_path: str = "/", **changed: str) -> httpx.Response:
    started = await browser.http.get(f"/api/v1{START}", params={"next": next_path})
    assert started.status_code == 302, started.text
    brought = {**provider.consent(started.headers["location"]), **changed}
    return await browser.http.get(f"/api/v1{BACK}", params=brought)


async def test_a_new_person_gets_in_and_is_known_the_next_time(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    answer = await sign_in(browser, provider, "/usage?month=2026-11")
    assert (answer.status_code, answer.headers["location"]) == (302, "/usage?month=2026-11")
    me = (await browser.call("GET", "/me")).json()["user"]
    assert (me["email"], me["name"], me["is_admin"]) == ("ana@example.org", "Ana", False)
    provider.person["email"] = "renamed@elsewhere.org"
    again = browser_of(admin, provider)
    assert (await sign_in(again, provider)).status_code == 302
    assert (await again.call("GET", "/me")).json()["user"]["id"] == me["id"]
    assert (await again.call("GET", "/sign-in")).json() == {"password": True, "open_id": True}


async def test_the_request_says_what_protects_it(admin: Admin, provider: FakeOidc) -> None:
    started = await browser_of(admin, provider).http.get(f"/api/v1{START}")
    query = parse_qs(urlsplit(started.headers["location"]).query)
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert all(len(query[name][0]) >= 43 for name in ("state", "nonce", "code_challenge"))
    (cookie,) = started.headers.get_list("set-cookie")
    assert "HttpOnly" in cookie
    assert query["nonce"][0] not in cookie


async def test_two_tabs_sign_in_one_after_the_other(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    tabs = [await browser.http.get(f"/api/v1{START}", params={"next": f"/{tab}"}) for tab in ("first", "second")]
    for tab, name in zip(tabs, ("/first", "/second"), strict=True):
        brought = provider.consent(tab.headers["location"])
        answer = await browser.http.get(f"/api/v1{BACK}", params=brought)
        assert (answer.status_code, answer.headers["location"]) == (302, name)
        again = await browser.http.get(f"/api/v1{BACK}", params=brought)
        assert again.status_code == 401


async def test_tabs_that_are_never_come_back_to_do_not_pile_up(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    tabs = [await browser.http.get(f"/api/v1{START}") for _ in range(20)]
    assert len([name for name in browser.http.cookies if name.startswith("llmaas-openid-")]) <= 8
    answer = await browser.http.get(f"/api/v1{BACK}", params=provider.consent(tabs[-1].headers["location"]))
    assert answer.status_code == 302


async def test_a_user_who_is_there_is_linked_by_a_verified_address(admin: Admin, provider: FakeOidc) -> None:
    await admin.user("ana")
    browser = browser_of(admin, provider)
    assert (await sign_in(browser, provider)).status_code == 302
    assert (await browser.call("GET", "/me")).json()["user"]["id"] == "user-ana"
    # Somebody else with the same address at the provider is not let into the linked account.
    provider.person["sub"] = "s-2"
    assert (await sign_in(browser_of(admin, provider), provider)).status_code == 409


async def test_who_comes_by_the_provider_needs_no_one_time_password(admin: Admin, provider: FakeOidc) -> None:
    await admin.user("ana", must_change_password=True)
    browser = browser_of(admin, provider)
    assert (await sign_in(browser, provider)).status_code == 302
    browser.csrf = (await browser.call("GET", "/me")).json()["csrf_token"]
    assert (await browser.call("PATCH", "/me", {"name": "Ana S."})).status_code == 200
    assert (await admin.client().sign_in("ana@example.org")).status_code == 401, "it is of no use any more"


async def test_many_people_of_one_address_get_in(admin: Admin, provider: FakeOidc) -> None:
    for _ in range(25):
        assert (await sign_in(browser_of(admin, provider), provider)).status_code == 302


async def test_who_comes_together_asks_the_provider_once(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    answers = await asyncio.gather(*(browser.http.get(f"/api/v1{START}") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {302}
    assert provider.discoveries == 1


@pytest.mark.parametrize(
    "person",
    [
        {"email_verified": False},
        {"email_verified": None},
        {"email_verified": "true"},
        {"email": "ana@elsewhere.org"},
        {"email": "ana@example.org.elsewhere.org"},
        {"email": None},
    ],
)
async def test_the_provider_speaks_only_for_its_domains(
    admin: Admin, provider: FakeOidc, person: dict[str, Any]
) -> None:
    await admin.user("ana")
    provider.claims = person
    assert (await sign_in(browser_of(admin, provider), provider)).status_code == 401
    assert len(await admin.services.users.page(after=None, limit=10)) == 1


async def test_nobody_new_gets_in_unless_that_is_set(admin: Admin, provider: FakeOidc) -> None:
    assert (await sign_in(browser_of(admin, provider, create_users=False), provider)).status_code == 401
    assert (await sign_in(browser_of(admin, provider, email_domains=()), provider)).status_code == 401
    await admin.user("ana", disabled_ms=1)
    assert (await sign_in(browser_of(admin, provider), provider)).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"iss": "http://127.0.0.1:1"},
        {"aud": "somebody-else"},
        {"aud": [CLIENT_ID, "somebody-else"]},
        {"aud": None},
        {"exp": 1_000},
        {"exp": None},
        {"exp": "never"},
        {"iat": 99_999_999_999},
        {"sub": None},
        {"sub": ""},
        {"sub": 1},
    ],
    ids=str,
)
async def test_a_token_with_wrong_claims_is_refused(admin: Admin, provider: FakeOidc, claims: dict[str, Any]) -> None:
    provider.claims = claims
    browser = browser_of(admin, provider)
    assert (await sign_in(browser, provider)).status_code == 401
    assert (await browser.call("GET", "/me")).status_code == 401


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
async def test_a_token_that_is_not_signed_by_the_provider_is_refused(
    admin: Admin, provider: FakeOidc, algorithm: str
) -> None:
    provider.algorithm = algorithm
    assert (await sign_in(browser_of(admin, provider), provider)).status_code == 401


async def test_a_forged_token_is_refused_and_a_new_key_is_found(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    assert (await sign_in(browser, provider)).status_code == 302
    provider.forged = True
    assert (await sign_in(browser, provider)).status_code == 401
    provider.forged = False
    provider.rotate_key()
    assert (await sign_in(browser, provider)).status_code == 302


async def test_a_wrong_state_a_foreign_cookie_and_an_old_one_are_refused(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    assert (await sign_in(browser, provider, state="another")).status_code == 401
    assert (await sign_in(browser, provider, state="")).status_code == 401
    assert provider.asked == []
    victim = browser_of(admin, provider)  # who is sent to the callback with somebody else's code has no cookie
    started = await browser.http.get(f"/api/v1{START}")
    brought = provider.consent(started.headers["location"])
    assert (await victim.http.get(f"/api/v1{BACK}", params=brought)).status_code == 401
    admin.clock.advance(601)
    assert (await browser.http.get(f"/api/v1{BACK}", params=brought)).status_code == 401
    assert provider.asked == []


async def test_a_code_works_once(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    started = await browser.http.get(f"/api/v1{START}")
    brought = provider.consent(started.headers["location"])
    name = f"llmaas-openid-{brought['state']}"
    pending = browser.http.cookies[name]
    assert (await browser.http.get(f"/api/v1{BACK}", params=brought)).status_code == 302
    assert name not in browser.http.cookies
    browser.http.cookies.set(name, pending, domain="console.test", path=f"/api/v1{START}")
    assert (await browser.http.get(f"/api/v1{BACK}", params=brought)).status_code == 401


async def test_the_configuration_of_another_issuer_is_refused(admin: Admin, provider: FakeOidc) -> None:
    for metadata in ({"issuer": "http://127.0.0.1:1"}, {"token_endpoint": "file:///etc/passwd"}, {"jwks_uri": None}):
        provider.metadata = metadata
        refused = await browser_of(admin, provider).http.get(f"/api/v1{START}")
        assert (refused.status_code, refused.json()["error"]["type"]) == (502, "server_error")


async def test_a_provider_that_is_away_is_said_so(admin: Admin, provider: FakeOidc) -> None:
    away = await browser_of(admin, provider, issuer="http://127.0.0.1:1").http.get(f"/api/v1{START}")
    assert away.status_code == 502
    assert "127.0.0.1" not in away.text
    assert (await admin.client().http.get(f"/api/v1{START}")).status_code == 404


async def test_A20_a_provider_that_fails_locks_nobody_out(admin: Admin, provider: FakeOidc) -> None:
    await admin.user("ana")
    provider.metadata = {"jwks_uri": f"{provider.issuer}/nowhere"}
    browser = browser_of(admin, provider)
    for _ in range(25):
        assert (await sign_in(browser, provider)).status_code == 502
    assert (await browser.sign_in("ana@example.org")).status_code == 200


async def test_A20_what_the_provider_refuses_counts_as_a_guess(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider)
    answers = [(await sign_in(browser, provider, code="stolen")).status_code for _ in range(25)]
    assert answers == [401] * 20 + [429] * 5


BROWSER = {"accept": "text/html,*/*;q=0.8"}


@pytest.mark.parametrize(
    ("language", "said"),
    [
        ("en", "You have no account here. Ask an administrator for one."),
        ("es", "No tiene cuenta aquí. Pida una a un administrador."),
        ("fr", "Vous n’avez pas de compte ici. Demandez-en un à un administrateur."),
    ],
)
async def test_a_browser_that_is_refused_is_back_at_the_form(
    admin: Admin, provider: FakeOidc, language: str, said: str
) -> None:
    browser = browser_of(admin, provider, create_users=False)
    browser.http.headers.update(BROWSER | {"accept-language": language})
    refused = await sign_in(browser, provider)
    assert (refused.status_code, refused.headers["location"]) == (303, "/sign-in")
    shown = await browser.http.get("/sign-in")
    assert said in shown.text
    assert 'action="/sign-in"' in shown.text
    assert said not in (await browser.http.get("/sign-in")).text
    assert (await browser.call("GET", "/me")).status_code == 401


async def test_a_browser_is_told_that_the_provider_is_away(admin: Admin, provider: FakeOidc) -> None:
    browser = browser_of(admin, provider, issuer="http://127.0.0.1:1")
    away = await browser.http.get(f"/api/v1{START}", headers=BROWSER)
    assert (away.status_code, away.headers["location"]) == (303, "/sign-in")
    shown = (await browser.http.get("/sign-in", headers=BROWSER)).text
    assert "tell your administrator" in shown
    assert "127.0.0.1" not in shown


@pytest.mark.parametrize(
    "path",
    [
        "https://evil.test",
        "//evil.test",
        "/\\evil.test",
        "/\t/evil.test",
        "\\\\evil.test",
        "javascript:alert(1)",
        "/a\r\nset-cookie: a=b",
        "/a\\..\\b",
        "",
        "usage",
        "/ñ",
    ],
)
async def test_nobody_is_sent_to_another_site(admin: Admin, provider: FakeOidc, path: str) -> None:
    assert local_path(path) == "/"
    assert (await sign_in(browser_of(admin, provider), provider, path)).headers["location"] == "/"


def test_a_path_of_ours_is_kept() -> None:
    for path in ("/", "/usage?month=2026-11&by=model#top", "/projects/a.b_c-d"):
        assert local_path(path) == path
