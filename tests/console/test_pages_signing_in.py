"""Signing in by pages: a code that is missing is asked for by itself, and who has to wait is told how long."""

from __future__ import annotations

import pyotp
import pytest
from playwright.async_api import expect

from llmaas.control.accounts.second_factor import SecondFactor
from llmaas.domain.audit import SYSTEM
from llmaas.domain.users import User, UserStore
from tests.console.browser import PHONE, Console, sign_in
from tests.console.demo import PASSWORD as DEMO_PASSWORD
from tests.console.lab import Lab
from tests.console.reading import Reader, Shown
from tests.console.site import PASSWORD, TEST

WRONG = "The e-mail address, the password or the code is wrong."


async def second_factor(lab: Lab, name: str) -> pyotp.TOTP:
    users, factor = lab.admin.services.users, lab.admin.services.sign_in.second_factor
    secret, _ = await factor.begin(await read(users, f"user-{name}"), by=TEST)
    totp = pyotp.TOTP(secret)
    code = totp.at(lab.now_ms // 1000)
    await factor.confirm(await read(users, f"user-{name}"), code, keep_session="", by=TEST)
    lab.admin.clock.advance(60)
    return totp


async def try_it(reader: Reader, **values: str) -> Shown:
    return await reader.send(await reader.get("/sign-in?next=/profile"), **values)


async def test_a_missing_code_is_asked_for_and_nothing_is_typed_again(lab: Lab) -> None:
    totp = await second_factor(lab, "dev")
    reader = Reader(lab.admin.client())
    page = await try_it(reader, email="dev@example.org", password=PASSWORD, code="")
    assert page.status == 422
    assert page.fault("code") == "Type the code that your authenticator shows, or a recovery code."
    assert "dev@example.org" in page.text
    assert "is wrong" not in page.text
    assert PASSWORD not in str([part.attrib for part in page.root.iter()])
    again = await reader.send(page, code="123")
    assert WRONG in again.text
    here = await reader.send(again, code=totp.at(lab.now_ms // 1000))
    assert here.path == "/profile"


async def test_what_was_typed_is_kept_for_minutes_only(lab: Lab) -> None:
    totp = await second_factor(lab, "dev")
    reader = Reader(lab.admin.client())
    page = await try_it(reader, email="dev@example.org", password=PASSWORD)
    lab.admin.clock.advance(600)
    late = await reader.send(page, code=totp.at(lab.now_ms // 1000))
    assert late.status == 422
    assert late.fault("email")
    forged = await reader.send(await reader.get("/sign-in"), kept="AAAA", email="", password="")
    assert forged.status == 422


async def test_who_does_not_know_the_password_learns_nothing_of_a_second_factor(lab: Lab) -> None:
    await second_factor(lab, "dev")
    told = {
        (await try_it(Reader(lab.admin.client()), email=email, password="not the password")).text.replace(email, "")
        for email in ("dev@example.org", "viewer@example.org", "nobody@example.org")
    }
    assert len(told) == 1
    assert WRONG in told.pop()


async def test_a_password_without_its_code_counts_as_a_guess(lab: Lab) -> None:
    await second_factor(lab, "dev")
    shown = [await try_it(Reader(lab.admin.client()), email="dev@example.org", password=PASSWORD) for _ in range(11)]
    assert "Too many attempts." in shown[-1].text


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("en", "Too many attempts. Try again in 30 seconds."),
        ("es", "Demasiados intentos. Vuelva a intentarlo en 30 segundos."),
        ("fr", "Trop de tentatives. Réessayez dans 30 secondes."),
    ],
)
async def test_who_has_to_wait_is_told_how_long(lab: Lab, language: str, told: str) -> None:
    reader = Reader(lab.admin.client(), language)
    for _ in range(11):
        page = await try_it(reader, email="dev@example.org", password="not the password")
    assert told in page.text
    lab.admin.clock.advance(29.5)
    page = await try_it(reader, email="dev@example.org", password="not the password")
    assert told.replace("30", "1").rstrip("s.") in page.text


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
async def test_the_code_is_asked_for_in_a_browser(console: Console) -> None:
    installation = await console.process.installation()
    clock, users = installation.clock, installation.users
    digest = await installation.passwords.hash(DEMO_PASSWORD)
    await users.add(User("user-coded", "coded@example.org", digest, False, False, clock.now_ms()))
    factor = SecondFactor(users, installation.secret_box, clock, installation.pepper)
    secret, _ = await factor.begin(await read(users, "user-coded"), by=SYSTEM)
    totp, now_s = pyotp.TOTP(secret), clock.now_ms() // 1000
    await factor.confirm(await read(users, "user-coded"), totp.at(now_s - 30), keep_session="", by=SYSTEM)
    async with console.tab(width=PHONE) as tab:
        await sign_in(tab, "coded@example.org")
        await expect(tab.page.locator("#code")).to_be_focused()
        assert "coded@example.org" in await tab.text()
        assert await tab.severe_findings() == []
        assert await tab.overflow_px() <= 0
        await tab.page.fill("#code", totp.at(clock.now_ms() // 1000 + 30))
        await tab.click("main button.primary")
        assert not tab.path.startswith("/sign-in")
        assert await tab.all_faults() == []


async def read(users: UserStore, user_id: str) -> User:
    user = await users.get(user_id)
    assert user is not None
    return user
