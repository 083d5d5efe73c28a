"""What says "Live": true while figures are renewed, and something else when the server is away or the reader signed out."""

from __future__ import annotations

import pytest

from tests.console.browser import PHONE, Console, Tab, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")
PLACES = ["/projects/assistants/overview", "/admin/fleet", "/admin/health", "/status"]


async def _renew(tab: Tab, state: str) -> None:
    """As when somebody comes back to the page, which does not wait for the next round."""
    await tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await tab.page.wait_for_selector(f"[data-live-mark][data-state={state}]", timeout=20_000)


@pytest.mark.parametrize("path", PLACES)
async def test_live_is_not_said_while_nobody_answers(console: Console, path: str) -> None:
    async with console.tab("root", width=PHONE) as tab:
        await tab.go(path)
        await _renew(tab, "live")
        assert await tab.text("[data-live-mark]") == "Live"
        await tab.page.context.set_offline(True)
        await _renew(tab, "lost")
        assert "No answer" in await tab.text("[data-live-mark]")
        assert await tab.overflow_px() == 0
        await tab.page.context.set_offline(False)
        await _renew(tab, "live")
        assert await tab.text("[data-live-mark]") == "Live"


async def test_who_is_signed_out_is_told_and_followed_back(console: Console) -> None:
    async with console.tab() as tab:
        await sign_in(tab, "owner@example.org")
        path = "/projects/assistants/overview"
        await tab.go(path)
        other = Tab(await tab.page.context.new_page(), tab.base_url)
        await other.go("/profile")
        await other.click("form[action='/sign-out'] button")
        await _renew(tab, "out")
        assert "signed out" in await tab.text("[data-live-mark]")
        assert await tab.page.get_attribute("[data-live-mark] a", "href") == f"/sign-in?next={path}"
        await sign_in(other, "owner@example.org")
        await _renew(tab, "live")


async def test_nothing_is_said_to_be_live_without_scripts(console: Console) -> None:
    async with console.tab("owner", scripts=False) as tab:
        await tab.go("/projects/assistants/overview")
        assert not await tab.page.is_visible("[data-live-mark]")
