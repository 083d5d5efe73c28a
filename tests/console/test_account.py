"""Signing in and out, the password, the second factor, sessions and tokens."""

from __future__ import annotations

import sys

import pyotp
import pytest
from structlog.testing import capture_logs

from llmaas.domain import tokens
from llmaas.domain.members import Role
from tests.console.site import ORIGIN, PASSWORD, PEPPER, Admin, Browser, SignedIn

NEW_PASSWORD = "another horse battery"


async def test_a_session_opens_shows_who_it_is_and_ends(admin: Admin) -> None:
    await admin.user("ana")
    await admin.project("lab", ana=Role.OWNER)
    browser = admin.client()
    assert (await browser.call("GET", "/me")).status_code == 401
    answer = await browser.sign_in("Ana@Example.org")
    assert answer.status_code == 200
    cookies = answer.headers.get_list("set-cookie")
    assert [cookie.partition("=")[0] for cookie in cookies] == ["llmaas-session", "llmaas-known"]
    for cookie in cookies:
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
    me = (await browser.call("GET", "/me")).json()
    assert me["user"]["email"] == "ana@example.org"
    assert me["csrf_token"] == browser.csrf
    assert me["projects"] == [{"project": "lab", "role": "owner"}]
    token = browser.http.cookies["llmaas-session"]
    assert (await browser.call("POST", "/sign-out")).status_code == 204
    browser.http.cookies.set("llmaas-session", token)
    assert (await browser.call("GET", "/me")).status_code == 401


async def test_every_failed_sign_in_has_one_text(admin: Admin) -> None:
    await admin.user("ana")
    await admin.user("gone", disabled_ms=1)
    await admin.user("elsewhere", password_hash="")
    browser = admin.client()
    answers = [
        await browser.sign_in(email, password)
        for email, password in [
            ("ana@example.org", "wrong"),
            ("nobody@example.org", PASSWORD),
            ("gone@example.org", PASSWORD),
            ("elsewhere@example.org", ""),
            ("", ""),
        ]
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert not browser.http.cookies


async def test_guessing_is_slowed_down_by_account_and_by_address(admin: Admin) -> None:
    await admin.user("ana")
    browser = admin.client()
    answers = [(await browser.sign_in("ana@example.org", "wrong")).status_code for _ in range(12)]
    assert answers == [401] * 10 + [429] * 2
    refused = await browser.sign_in("ana@example.org")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    others = [(await browser.sign_in(f"n{number}@example.org", "wrong")).status_code for number in range(12)]
    assert others.count(429) >= 4
    admin.clock.advance(31)
    assert (await browser.sign_in("ana@example.org")).status_code == 200


async def test_A21_guesses_of_a_whole_network_count_together(admin: Admin) -> None:
    """An IPv6 host has a /64 of its own; the next network is somebody else's, and so is each IPv4 address."""

    async def statuses(addresses: list[str]) -> list[int]:
        found = []
        for number, address in enumerate(addresses):
            browser = admin.client(address=address)
            found.append((await browser.sign_in(f"n{number}-{address}@example.org", "wrong")).status_code)
        return found

    assert (await statuses([f"2001:db8:0:7::{n:x}" for n in range(60)])).count(401) == 20
    assert await statuses(["2001:db8:0:8::1"] * 5) == [401] * 5
    assert await statuses([f"::ffff:192.0.2.{n}" for n in range(1, 31)]) == [401] * 30
    assert (await statuses(["::ffff:192.0.3.1", "192.0.3.1"] * 15)).count(401) == 20


async def test_strangers_who_guess_keep_nobody_out(admin: Admin) -> None:
    """Neither of a browser that they use, nor of the session that is open there. A new browser has to wait."""
    await admin.user("ana")
    mine, stranger, fresh = admin.client(), admin.client(), admin.client()
    assert (await mine.sign_in("ana@example.org")).status_code == 200
    for number in range(15):
        await stranger.sign_in("ana@example.org", "wrong")
        await stranger.sign_in(f"n{number}@example.org", "wrong")
    assert (await fresh.sign_in("ana@example.org")).status_code == 429
    change = {"current": PASSWORD, "password": NEW_PASSWORD}
    assert (await mine.call("PUT", "/me/password", {**change, "current": "wrong"})).status_code == 401
    assert (await mine.call("POST", "/sign-out")).status_code == 204
    assert (await mine.sign_in("ana@example.org")).status_code == 200
    assert (await mine.call("PUT", "/me/password", change)).status_code == 204
    # The proof is of the old password; and it is for guessing itself no help.
    assert (await mine.sign_in("ana@example.org", NEW_PASSWORD)).status_code == 429
    admin.clock.advance(60)
    assert (await mine.sign_in("ana@example.org", NEW_PASSWORD)).status_code == 200
    answers = [(await mine.sign_in("ana@example.org", "wrong")).status_code for _ in range(12)]
    assert answers == [401] * 10 + [429] * 2


@pytest.mark.parametrize("proof", ["", ".", "a.b", "ñ.ñ", "0" * 32 + "." + "0" * 32])
async def test_a_made_up_proof_is_none(admin: Admin, proof: str) -> None:
    await admin.user("ana")
    browser = admin.client()
    for _ in range(10):
        await browser.sign_in("ana@example.org", "wrong")
    headers = [(b"origin", b"http://console.test"), (b"cookie", f"llmaas-known={proof}".encode())]
    form = {"email": "ana@example.org", "password": PASSWORD, "code": ""}
    assert (await browser.http.post("/api/v1/sign-in", json=form, headers=headers)).status_code == 429


async def test_A09_guessed_sessions_and_tokens_refuse_no_good_ones(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    mine = await signed_in("ana")
    for credential in ({"cookie": "llmaas-session=nobodys"}, {"authorization": f"Bearer {tokens.mint(PEPPER)[0]}"}):
        stranger = admin.client()
        for _ in range(130):
            answer = await stranger.http.get("/api/v1/me", headers=credential)
        assert answer.status_code == 429
        assert (await mine.call("GET", "/me")).status_code == 200


async def test_a_name_too_long_for_an_address_is_nobodys(admin: Admin) -> None:
    browser = admin.client()
    assert (await browser.sign_in("\N{GRINNING FACE}" * 200_000, "wrong")).status_code == 413
    assert (await browser.sign_in("\N{GRINNING FACE}" * 5_000, "wrong")).status_code == 401
    held = sys.getsizeof(admin.services.sign_in._accounts._buckets)  # noqa: SLF001 - how much it keeps is the point
    assert held < 10_000
    assert all(len(name) < 100 for name in admin.services.sign_in._accounts._buckets)  # noqa: SLF001


async def test_failed_sign_ins_are_in_the_log_without_the_name(admin: Admin) -> None:
    browser = admin.client()
    with capture_logs() as lines:
        for _ in range(12):
            await browser.sign_in("mypassword", "wrong")
    assert [line["reason"] for line in lines] == ["wrong"] * 10 + ["too_many"] * 2
    assert {line["event"] for line in lines} == {"sign_in_failed"}
    assert "mypassword" not in str(lines)


async def test_A11_a_sign_in_leaves_nothing_of_the_session_before(admin: Admin) -> None:
    await admin.user("ana")
    browser = admin.client()
    browser.http.cookies.set("llmaas-session", "planted", domain="console.test")
    await browser.sign_in("ana@example.org")
    first = browser.http.cookies["llmaas-session"]
    assert first != "planted"
    await browser.sign_in("ana@example.org")
    assert browser.http.cookies["llmaas-session"] != first
    other = admin.client()
    other.http.cookies.set("llmaas-session", first)
    assert (await other.call("GET", "/me")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"x_csrf_token": "0" * 64},
        {"x_csrf_token": ""},
        {"origin": ""},
        {"origin": "null"},
        {"origin": "http://evil.test"},
        {"origin": "http://console.test.evil.test"},
        {"origin": "http://console.test:81"},
    ],
)
async def test_A11_a_change_by_cookie_needs_the_token_and_our_origin(
    admin: Admin, signed_in: SignedIn, headers: dict[str, str]
) -> None:
    await admin.user("ana")
    browser = await signed_in("ana")
    sent = {"origin": ORIGIN, "x_csrf_token": browser.csrf, **headers}
    refused = await browser.call("POST", "/tokens", {"name": "x"}, **sent)
    assert refused.status_code == 403
    assert ("origin" if "origin" in headers else "csrf") in refused.json()["error"]["message"]
    assert (await browser.call("GET", "/tokens")).json()["data"] == []


async def test_A11_the_csrf_token_of_another_session_is_wrong(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    mine, other = await signed_in("ana"), await signed_in("ana")
    assert (await mine.call("POST", "/tokens", {"name": "x"}, x_csrf_token=other.csrf)).status_code == 403


@pytest.mark.parametrize("origin", ["null", "http://evil.test"])
async def test_A11_nobody_signs_a_browser_in_from_another_page(admin: Admin, origin: str) -> None:
    await admin.user("ana")
    browser = admin.client()
    body = {"email": "ana@example.org", "password": PASSWORD}
    assert (await browser.call("POST", "/sign-in", body, origin=origin)).status_code == 403
    form = await browser.http.post("/api/v1/sign-in", data=body)
    assert form.status_code == 415
    text = await browser.http.post("/api/v1/sign-in", content=b"{}", headers={"content-type": "text/plain"})
    assert text.status_code == 415


async def test_sessions_end_when_they_are_idle_and_in_any_case(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    browser = await signed_in("ana")
    for _ in range(3):
        admin.clock.advance(3_000)
        assert (await browser.call("GET", "/me")).status_code == 200
    admin.clock.advance(3_601)
    assert (await browser.call("GET", "/me")).status_code == 401
    busy = await signed_in("ana")
    for _ in range(7 * 24 * 2):
        admin.clock.advance(1_800)
        last = (await busy.call("GET", "/me")).status_code
    assert last == 401


async def test_a_session_can_be_ended_from_another_one(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    await admin.user("bo")
    mine, other, foreign = await signed_in("ana"), await signed_in("ana"), await signed_in("bo")
    listed = (await mine.call("GET", "/sessions")).json()["data"]
    assert [session["current"] for session in listed].count(True) == 1
    (theirs,) = [session["id"] for session in listed if not session["current"]]
    assert (await foreign.call("DELETE", f"/sessions/{theirs}")).status_code == 404
    assert (await other.call("GET", "/me")).status_code == 200
    assert (await mine.call("DELETE", f"/sessions/{theirs}")).status_code == 204
    assert (await other.call("GET", "/me")).status_code == 401


async def test_a_one_time_password_has_to_be_changed_first(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("root", admin=True)
    root = await signed_in("root")
    made = (await root.call("POST", "/users", {"email": "New@Example.org", "is_admin": True})).json()
    browser = admin.client()
    assert (await browser.sign_in("new@example.org", made["one_time_password"])).status_code == 200
    assert (await browser.call("GET", "/me")).json()["user"]["must_change_password"] is True
    assert (await browser.call("GET", "/users")).status_code == 403
    assert (await browser.call("POST", "/tokens", {"name": "x"})).status_code == 403
    assert (await browser.call("PATCH", "/me", {"name": "x"})).status_code == 403
    assert (await browser.call("POST", "/invitations/accept", {"token": "x"})).status_code == 403
    assert (await browser.call("POST", "/me/second-factor", {"password": "x"})).status_code == 403
    change = {"current": made["one_time_password"], "password": NEW_PASSWORD}
    assert (await browser.call("PUT", "/me/password", change)).status_code == 204
    assert (await browser.call("GET", "/users")).status_code == 200
    assert (await admin.client().sign_in("new@example.org", made["one_time_password"])).status_code == 401
    assert (await admin.client().sign_in("new@example.org", NEW_PASSWORD)).status_code == 200


async def test_a_changed_password_ends_other_sessions(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    mine, other = await signed_in("ana"), await signed_in("ana")
    for password in ("short", "aaaaaaaaaaaaaaaa", "ana@example.org", PASSWORD):
        body = {"current": PASSWORD, "password": password}
        assert (await mine.call("PUT", "/me/password", body)).status_code == 400, password
    wrong = {"current": "wrong", "password": NEW_PASSWORD}
    assert (await mine.call("PUT", "/me/password", wrong)).status_code == 401
    assert (await other.call("GET", "/me")).status_code == 200
    right = {"current": PASSWORD, "password": NEW_PASSWORD}
    assert (await mine.call("PUT", "/me/password", right)).status_code == 204
    assert (await mine.call("GET", "/me")).status_code == 200
    assert (await other.call("GET", "/me")).status_code == 401


async def _with_second_factor(admin: Admin, browser: Browser) -> tuple[pyotp.TOTP, list[str]]:
    pending = (await browser.call("POST", "/me/second-factor", {"password": PASSWORD})).json()
    totp = pyotp.TOTP(pending["secret"])
    assert pending["secret"] in pending["uri"]
    code = totp.at(admin.clock.now_ms() // 1000)
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    assert (await browser.call("POST", "/me/second-factor/confirm", {"code": wrong})).status_code == 400
    assert (await admin.client().sign_in("ana@example.org")).status_code == 200  # not in force yet
    confirmed = await browser.call("POST", "/me/second-factor/confirm", {"code": code})
    return totp, confirmed.json()["recovery_codes"]


async def test_a_second_factor_is_asked_for_and_a_code_works_once(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    browser = await signed_in("ana")
    totp, _ = await _with_second_factor(admin, browser)
    here = admin.client()
    now_s = admin.clock.now_ms() // 1000
    assert (await here.sign_in("ana@example.org")).status_code == 401
    assert (await here.sign_in("ana@example.org", code=totp.at(now_s))).status_code == 401  # used to confirm
    admin.clock.advance(30)
    code = totp.at(now_s + 30)
    assert (await here.sign_in("ana@example.org", code=code)).status_code == 200
    assert (await here.sign_in("ana@example.org", code=code)).status_code == 401
    assert (await here.sign_in("ana@example.org", code=totp.at(now_s))).status_code == 401  # older than the last one
    admin.clock.advance(300)
    assert (await here.sign_in("ana@example.org", code=totp.at(now_s + 60))).status_code == 401
    assert (await here.sign_in("ana@example.org", "wrong", totp.at(now_s + 330))).status_code == 401
    assert (await here.sign_in("ana@example.org", code=totp.at(now_s + 330))).status_code == 200


async def test_a_recovery_code_signs_in_once(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    await admin.user("bo")
    _, codes = await _with_second_factor(admin, await signed_in("ana"))
    assert len(set(codes)) == 10
    here = admin.client()
    assert (await here.sign_in("ana@example.org", code=codes[0])).status_code == 200
    assert (await here.sign_in("ana@example.org", code=codes[0])).status_code == 401
    assert (await here.sign_in("ana@example.org", code=codes[1].upper())).status_code == 200
    assert (await here.call("POST", "/me/second-factor", {"password": PASSWORD})).status_code == 409
    assert (await here.call("DELETE", "/me/second-factor", {"password": "wrong"})).status_code == 401
    assert (await here.call("DELETE", "/me/second-factor", {"password": PASSWORD})).status_code == 204
    assert (await admin.client().sign_in("ana@example.org")).status_code == 200
    assert (await admin.client().sign_in("ana@example.org", code=codes[2])).status_code == 200  # no code is asked for


async def test_a_token_acts_for_its_user_until_it_is_revoked(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("ana")
    await admin.project("lab", ana=Role.VIEWER)
    browser = await signed_in("ana")
    made = (await browser.call("POST", "/tokens", {"name": "ci", "expires_days": 1})).json()
    program = admin.client()
    bearer = f"Bearer {made['token']}"
    assert (await program.call("GET", "/projects", authorization=bearer)).json()["data"][0]["id"] == "lab"
    # What needs a signed-in browser, a token may not: it makes no other token and changes no password.
    assert (await program.call("POST", "/tokens", {"name": "x"}, authorization=bearer)).status_code == 403
    assert (await program.call("PUT", "/me/password", {}, authorization=bearer)).status_code == 403
    (listed,) = (await browser.call("GET", "/tokens")).json()["data"]
    assert listed["used"] is not None
    assert made["token"] not in str(listed)
    for spoilt in (made["token"][:-1] + "x", made["token"] + "x", "", "llmaas_pat_", made["token"].upper()):
        assert (await program.call("GET", "/me", authorization=f"Bearer {spoilt}")).status_code == 401
    assert (await browser.call("DELETE", f"/tokens/{made['id']}")).status_code == 204
    assert (await program.call("GET", "/me", authorization=bearer)).status_code == 401
    second = (await browser.call("POST", "/tokens", {"name": "ci", "expires_days": 1})).json()
    admin.clock.advance(86_400)
    bearer = f"Bearer {second['token']}"
    assert (await program.call("GET", "/me", authorization=bearer)).status_code == 401


async def test_a_disabled_user_stops_at_once(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("root", admin=True)
    ana = await admin.user("ana")
    root, browser = await signed_in("root"), await signed_in("ana")
    bearer = await admin.token(ana)
    assert (await root.call("PATCH", "/users/user-ana", {"disabled": True})).status_code == 200
    assert (await browser.call("GET", "/me")).status_code == 401
    assert (await admin.client().call("GET", "/me", authorization=bearer)).status_code == 401
    assert (await admin.client().sign_in("ana@example.org")).status_code == 401
    assert (await root.call("PATCH", "/users/user-ana", {"disabled": False})).status_code == 200
    assert (await admin.client().sign_in("ana@example.org")).status_code == 200
    assert (await browser.call("GET", "/me")).status_code == 401


async def test_there_is_always_an_admin(admin: Admin, signed_in: SignedIn) -> None:
    await admin.user("root", admin=True)
    root = await signed_in("root")
    for change in ({"disabled": True}, {"is_admin": False}):
        assert (await root.call("PATCH", "/users/user-root", change)).status_code == 409
    await admin.user("second", admin=True)
    assert (await root.call("PATCH", "/users/user-root", {"is_admin": False})).status_code == 200
    assert (await root.call("GET", "/users")).status_code == 403
