"""What all pages keep to, and those of the frame: signing in, first steps, profile, members. In a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyotp
import pytest
from playwright.async_api import Route, ViewportSize, expect

from tests.console.browser import DESKTOP, PHONE, Console, Tab, Theme, sign_in
from tests.console.demo import HIDDEN_PROJECT, HOSTILE, OTHER_PROJECT, PASSWORD, PROJECT
from tests.console.places import SPOTS, Spot
from tests.gateway import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")
MEMBERS = f"/projects/{PROJECT}/members"
_MOST_BYTES = 150_000
_MOST_SHIFT = 0.02


async def look(console: Console, spot: Spot, width: int, theme: Theme, language: str) -> None:
    async with console.tab(spot.reader, width=width, theme=theme, language=language) as tab:
        sizes: list[int] = []

        async def weigh(request: Any) -> None:
            sizes.append((await request.sizes())["responseBodySize"])

        tab.page.on("requestfinished", weigh)
        response = await tab.go(spot.path)
        assert response.status == (404 if spot.name == "not-found" else 200)
        policy = response.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert await tab.all_faults() == []
        assert await tab.severe_findings() == []
        assert await tab.overflow_px() <= 0
        assert await tab.layout_shift() < _MOST_SHIFT
        assert 0 < sum(sizes) < _MOST_BYTES
        assert await tab.page.get_attribute("html", "lang") == language


@pytest.mark.parametrize("spot", SPOTS, ids=str)
async def test_every_page_is_sound_on_a_phone(console: Console, spot: Spot) -> None:
    """Where most can go wrong: the least room, and longer words than in English."""
    await look(console, spot, PHONE, "dark", "es")


@pytest.mark.parametrize("spot", SPOTS, ids=str)
async def test_every_page_is_sound_at_any_size_and_in_both_themes(console: Console, spot: Spot) -> None:
    await look(console, spot, DESKTOP, "light", "en")
    await look(console, spot, DESKTOP, "dark", "fr")
    await look(console, spot, PHONE, "light", "fr")


async def test_signing_in_by_keyboard_alone_leads_to_the_wanted_page(console: Console) -> None:
    async with console.tab() as tab:
        await tab.go("/profile/tokens")
        assert tab.path == "/sign-in?next=/profile/tokens"
        assert (await tab.focused()).startswith("input#email")
        await tab.page.keyboard.type("owner@example.org")
        await tab.page.keyboard.press("Tab")
        await tab.page.keyboard.type(PASSWORD)
        for _ in range(3):
            await tab.page.keyboard.press("Tab")
        assert (await tab.focused()).startswith("button")
        async with tab.page.expect_navigation():
            await tab.page.keyboard.press("Enter")
        assert tab.path == "/profile/tokens"
        assert await tab.all_faults() == []


async def test_the_first_stop_of_the_keyboard_skips_the_navigation(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go("/profile")
        await tab.page.keyboard.press("Tab")
        assert "Skip to content" in await tab.focused()
        await tab.page.keyboard.press("Enter")
        await tab.page.keyboard.press("Tab")
        assert await tab.page.evaluate("document.activeElement.closest('main') !== null")


_LAPTOP = ViewportSize(width=1280, height=800)


async def test_the_account_is_in_sight_on_a_laptop(console: Console) -> None:
    async with console.tab("root") as tab:
        await tab.page.set_viewport_size(_LAPTOP)
        await tab.go(f"/projects/{PROJECT}/overview")
        for part in (".side-person > a", ".side-person button"):
            box = await tab.page.locator(part).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= _LAPTOP["height"]
        last = tab.page.locator(".side-places a").last
        await last.focus()
        person = await tab.page.locator(".side-foot").bounding_box()
        reached = await last.bounding_box()
        assert person is not None
        assert reached is not None
        assert reached["y"] + reached["height"] <= person["y"]


async def test_single_requests_show_every_column_on_a_laptop(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.page.set_viewport_size(_LAPTOP)
        await tab.go(f"/projects/{PROJECT}/usage/requests")
        box = tab.page.get_by_role("region", name="Requests")
        assert await box.evaluate("e => e.scrollWidth - e.clientWidth") == 0
        await expect(box).not_to_have_attribute("tabindex", "0")  # what does not scroll is no stop of the keyboard


async def test_filters_of_the_audit_log_stay_within_a_phone(console: Console) -> None:
    async with console.tab("root", width=PHONE) as tab:
        await tab.go("/admin/audit")
        for name in ("from", "to"):
            assert await tab.page.locator(f"#{name}").evaluate(
                "e => e.getBoundingClientRect().right <= e.closest('form').getBoundingClientRect().right"
            )


async def test_a_wrong_password_says_so_and_keeps_the_address(console: Console) -> None:
    async with console.tab() as tab:
        await sign_in(tab, "viewer@example.org", "not the password")
        assert await tab.page.input_value("#email") == "viewer@example.org"
        assert "is wrong" in await tab.text('[role="alert"]')
        assert await tab.page.input_value("#password") == ""
        assert await tab.severe_findings() == []


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
async def test_A12_signing_in_leads_to_no_other_site(console: Console, target: str) -> None:
    async with console.tab("owner") as tab:
        await tab.go("/sign-in?next=" + target)
        assert tab.page.url.startswith(console.process.url)
        assert "evil" not in tab.page.url


async def test_a_session_that_ended_leads_back_after_signing_in(console: Console) -> None:
    async with console.tab() as tab:
        await sign_in(tab, "dev@example.org")
        await tab.page.context.clear_cookies()
        await tab.go(MEMBERS + "?after=user-a")
        assert tab.path.startswith("/sign-in?next=")
        await tab.page.fill("#email", "dev@example.org")
        await tab.page.fill("#password", PASSWORD)
        await tab.click("main button.primary")
        assert tab.path == MEMBERS + "?after=user-a"


async def test_signing_out_ends_the_session(console: Console) -> None:
    async with console.tab() as tab:
        await sign_in(tab, "dev@example.org")
        cookies = await tab.page.context.cookies()
        await tab.click('form[action="/sign-out"] button')
        assert tab.path == "/sign-in"
        assert "You are signed out." in await tab.text()
        await tab.page.context.add_cookies([{**cookie} for cookie in cookies])  # type: ignore[typeddict-item]
        await tab.go("/profile")
        assert tab.path.startswith("/sign-in")


async def test_pages_work_without_scripts(console: Console) -> None:
    async with console.tab(scripts=False, width=PHONE) as tab:
        await sign_in(tab, "owner@example.org")
        assert tab.path == f"/projects/{PROJECT}/overview"
        await tab.page.click('a[href="#side"]')
        await tab.click(f'#side a[href="{MEMBERS}"]')
        assert "Vera Lindholm" in await tab.text()
        await tab.go("/profile/tokens/new")
        await tab.page.fill("#name", "no scripts")
        await tab.click("main form.form button.primary")
        assert re.fullmatch(r"llmaas_pat_\w+", (await tab.text("#token")).strip())


async def test_theme_and_language_are_kept(console: Console) -> None:
    async with console.tab() as tab:
        await tab.go("/sign-in")
        await tab.click('button[value="fr"]')
        await tab.click('button[value="dark"]')
        assert tab.path == "/sign-in"
        assert await tab.page.get_attribute("html", "data-theme") == "dark"
        assert "Connexion" in await tab.text("h1")
        assert await tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 13, 15)"


async def test_the_project_switcher_stays_at_the_place(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go(MEMBERS)
        await tab.page.click("details.menu summary")
        assert "Hidden" not in await tab.text(".menu-list")
        await tab.click(f'.menu-list a[href="/projects/{OTHER_PROJECT}/members"]')
        assert await tab.page.locator('#side a[aria-current="page"]').inner_text() == "Members"
        await tab.go("/")
        assert tab.path == f"/projects/{OTHER_PROJECT}/overview"


async def test_A01_a_project_of_others_is_not_there(console: Console) -> None:
    async with console.tab("owner") as tab:
        hidden = await tab.go(f"/projects/{HIDDEN_PROJECT}/members")
        told = await tab.text()
        unknown = await tab.go("/projects/no-such-one/members")
        assert hidden.status == unknown.status == 404
        assert told == (await tab.text()).replace("no-such-one", HIDDEN_PROJECT)
        await tab.go(f"/?project={HIDDEN_PROJECT}")
        assert HIDDEN_PROJECT not in tab.path


async def test_A12_a_form_of_another_site_does_nothing(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go("/profile")
        await tab.page.evaluate("document.querySelector('form[action=\"/profile/name\"] [name=csrf]').value = 'x'")
        await tab.page.fill("#name", "Mallory")
        await tab.click('form[action="/profile/name"] button')
        assert "not of this session" in await tab.text()
        await tab.go("/profile")
        assert await tab.page.input_value("#name") == "Ana Serrano"


async def test_A11_hostile_names_are_text_everywhere(console: Console) -> None:
    async with console.tab("owner") as tab:
        dialogs: list[str] = []
        tab.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        for path in (f"/projects/{OTHER_PROJECT}/members", f"/projects/{PROJECT}/keys", f"/projects/{PROJECT}/models"):
            await tab.go(path)
            assert HOSTILE in await tab.page.inner_text("body", timeout=5_000) or "keys" not in path
            assert await tab.page.evaluate("document.querySelectorAll('script:not([src]), b').length") == 0
        assert dialogs == []
        assert await tab.all_faults() == []


async def test_name_and_password_of_the_profile(console: Console) -> None:
    async with console.tab() as tab:
        await sign_in(tab, "viewer@example.org")
        await tab.go("/profile")
        await tab.page.fill("#name", "\u202e")
        await tab.click('form[action="/profile/name"] button')
        assert await tab.page.locator("#name[aria-invalid=true]").count() == 1
        await tab.page.fill("#name", "Vera L.")
        await tab.click('form[action="/profile/name"] button')
        assert "Your name is saved." in await tab.text()
        await tab.page.fill("#current", "wrong")
        await tab.page.fill("#password", "another long password")
        await tab.click('form[action="/profile/password"] .form-foot button')
        assert "The password is wrong." in await tab.text("#current-error")
        for new, told in (("short", "12 to 200"), ("another long password", "")):
            await tab.page.fill("#current", PASSWORD)
            await tab.page.fill("#password", new)
            await tab.click('form[action="/profile/password"] .form-foot button')
            if told:
                assert told in await tab.text("#password-error")
        assert "Your password is changed." in await tab.text()
        await tab.page.fill("#current", "another long password")
        await tab.page.fill("#password", PASSWORD)
        await tab.click('form[action="/profile/password"] .form-foot button')
        await tab.page.fill("#name", "Vera Lindholm")
        await tab.click('form[action="/profile/name"] button')
        assert await tab.all_faults() == []


async def test_a_second_factor_from_its_picture_to_its_end(console: Console) -> None:
    async with console.tab() as tab:
        await sign_in(tab, "dev@example.org")
        await tab.go("/profile/second-factor")
        await tab.page.fill("#password", "wrong")
        await tab.click("main button.primary")
        assert "The password is wrong." in await tab.text("#password-error")
        await tab.page.fill("#password", PASSWORD)
        await tab.click("main button.primary")
        assert await tab.page.locator("svg.code-image path").count() == 1
        totp = pyotp.TOTP((await tab.text("#secret")).strip())
        await tab.page.fill("#code", "000000" if totp.now() != "000000" else "000001")
        await tab.click("main button.primary")
        assert "The code is wrong." in await tab.text("#code-error")
        await tab.page.fill("#code", totp.now())
        await tab.click("main button.primary")
        codes = (await tab.text("#codes")).split()
        assert len(codes) == 10
        assert await tab.severe_findings() == []
        await tab.click('form[action="/sign-out"] button')
        await sign_in(tab, "dev@example.org")
        assert "Type the code" in await tab.text("#code-error")
        await tab.page.fill("#code", codes[0])
        await tab.click("main button.primary")
        await tab.go("/profile/second-factor")
        await tab.page.fill("#password", PASSWORD)
        await tab.click("main button.danger")
        assert "The second factor is off." in await tab.text()


async def test_a_token_is_shown_once_and_can_be_revoked(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go("/profile/tokens/new")
        await tab.page.evaluate("document.querySelector('main form').noValidate = true")
        await tab.click("main form.form button.primary")
        assert "Fill this in." in await tab.text("#name-error")
        await tab.page.fill("#name", HOSTILE)
        await tab.click("main form.form button.primary")
        token = (await tab.text("#token")).strip()
        await tab.go("/profile/tokens")
        assert HOSTILE in await tab.text()
        assert token not in await tab.page.content()
        answer = await console.process.get("/api/v1/me", key=token)
        assert answer.status == 200
        await tab.click("tr:has-text('script') a.button")
        await tab.click("main button.danger")
        assert "does not work any more" in await tab.text()
        assert (await console.process.get("/api/v1/me", key=token)).status == 401


async def test_another_session_can_be_ended(console: Console) -> None:
    async with console.tab() as one, console.tab() as two:
        await sign_in(one, "viewer@example.org")
        await sign_in(two, "viewer@example.org")
        await one.go("/profile/security")
        assert "This browser" in await one.text()
        before = await one.page.locator("tbody tr").count()
        await one.click('form[action^="/profile/sessions/"] button')
        assert await one.page.locator("tbody tr").count() == before - 1
        ended = await two.go("/profile")
        assert two.path.startswith("/sign-in") or ended.status == 200  # the newest other one went


async def test_somebody_is_invited_joins_gets_a_role_and_goes(console: Console) -> None:
    async with console.tab("owner") as owner, console.tab() as guest:
        await owner.go(f"/projects/{PROJECT}/invitations/new")
        await owner.page.fill("#email", "owner@example.org")
        await owner.click("main form.form button.primary")
        assert await owner.page.locator("#email[aria-invalid=true]").count() == 1
        await owner.page.fill("#email", "guest@example.org")
        await owner.page.check('input[value="viewer"]')
        await owner.click("main form.form button.primary")
        link = (await owner.text("#link")).strip()
        await guest.go(link.removeprefix(console.process.url))
        await guest.page.fill("#name", "Guest")
        await guest.page.fill("#password", "short")
        await guest.click("main button.primary")
        assert "12 to 200" in await guest.text("#password-error")
        await guest.page.fill("#password", PASSWORD)
        await guest.click("main button.primary")
        assert guest.path == f"/projects/{PROJECT}/overview"
        await owner.go(MEMBERS)
        await owner.click("tr:has-text('Guest') a.button")
        await owner.page.check('input[value="developer"]')
        await owner.click("main form.form button.primary")
        assert "Guest has the new role." in await owner.text()
        await owner.click("tr:has-text('Guest') a.button")
        await owner.click("main a.danger")
        await owner.click("main button.danger")
        assert "Guest is no member any more." in await owner.text()
        assert (await guest.go(MEMBERS)).status == 404


async def test_the_last_owner_cannot_leave(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go(f"/projects/{PROJECT}/leave")
        await tab.click("main button.danger")
        assert await tab.page.locator('[role="alert"]').count() == 1
        assert await tab.severe_findings() == []


async def test_the_first_steps_end_with_an_answer(console: Console, tmp_path: Path) -> None:
    """From the one-time password on; the model is being loaded first, and says how far that is."""
    process = GatewayProcess(tmp_path)
    installation = await process.installation()
    fleet = (await (await console.process.installation()).catalogue.state()).fleet
    await process.apply(fleet)
    password = await installation.create_user("new@example.org", is_admin=True)
    await process.start()
    first = Console(process, console.upstream, console.browser)
    try:
        async with first.tab() as tab:
            await _first_steps(tab, password)
    finally:
        await process.close()


async def _first_steps(tab: Tab, password: str) -> None:
    await sign_in(tab, "new@example.org", password)
    assert tab.path == "/welcome"
    await tab.go("/profile/tokens")
    assert tab.path == "/welcome"
    assert await tab.severe_findings() == []
    for new in ("short", PASSWORD):
        await tab.page.fill("#current", password)
        await tab.page.fill("#password", new)
        await tab.click("main button.primary")
    assert tab.path == "/welcome/project"
    await tab.page.fill("#name", "Research lab")
    await tab.click("main button.primary")
    assert tab.path == "/welcome/answer"
    await tab.page.route("**/v1/chat/completions", _load_once)
    await tab.click("main button.primary")
    await tab.page.wait_for_selector("text=The model is being loaded. 40 %")
    await tab.page.wait_for_selector("text=The first word came after")
    assert "<b>also this</b>" in await tab.text("[data-answer]")
    assert await tab.severe_findings() == []
    await tab.click("main .actions a.primary")
    assert tab.path == "/projects/default/overview"
    assert "Research lab" in await tab.text(".menu summary")
    assert await tab.all_faults() == []


async def _load_once(route: Route) -> None:
    error = {"message": "The model is loading.", "type": "server_error", "code": "loading", "progress": 0.4}
    await route.fulfill(status=503, json={"error": error}, headers={"retry-after": "1"})
    await route.request.frame.page.unroute("**/v1/chat/completions")
