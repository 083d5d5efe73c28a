"""Keys in a real browser: F5 and Back on the page with a new one make no other, and each has an owner with a name."""

from __future__ import annotations

import pytest

from tests.console.browser import Console, Tab

pytestmark = pytest.mark.asyncio(loop_scope="session")
KEYS = "/projects/research/keys"


async def _count(tab: Tab) -> int:
    await tab.go(KEYS)
    return await tab.page.locator("tbody tr").count()


async def test_a_new_key_is_loaded_anew_and_left_by_back(console: Console) -> None:
    async with console.tab("owner") as tab:
        before = await _count(tab)
        await tab.go(f"{KEYS}/new")
        await tab.page.fill("#name", "f5")
        await tab.click("main button.primary")
        made, key = tab.path, await tab.text("#secret")
        assert key.startswith("llmaas_")
        await tab.page.reload()
        assert (tab.path, await tab.text("#secret")) == (made, key)
        await tab.page.go_back()
        assert tab.path == f"{KEYS}/new"
        await tab.page.go_forward()
        assert await tab.text("#secret") == key
        assert await _count(tab) == before + 1
        assert tab.faults == []


async def test_keys_of_an_admin_carry_the_name(console: Console) -> None:
    async with console.tab("root") as tab:
        await tab.go(f"{KEYS}/new")
        await tab.page.fill("#name", "made by an admin")
        await tab.click("main button.primary")
        await tab.go(KEYS)
        assert "Ruth Okafor" in await tab.text("tr:has-text('made by an admin')")
        await tab.go(f"{KEYS}/new")
        await tab.page.fill("#name", "made for Daniel")
        await tab.page.select_option("#owner", label="Daniel Petit")
        await tab.click("main button.primary")
        await tab.go(KEYS)
        assert "Daniel Petit" in await tab.text("tr:has-text('made for Daniel')")


async def test_when_a_rotated_key_stops_is_told_in_the_readers_time(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go(f"{KEYS}/new")
        await tab.page.fill("#name", "to be rotated")
        await tab.click("main button.primary")
        await tab.go(KEYS)
        await tab.click("a:has-text('to be rotated')")
        await tab.click("a[href$='/rotate']")
        await tab.click("main button.primary")
        stops = tab.page.locator("main p time")
        moment = await stops.evaluate(
            "e => new Intl.DateTimeFormat('en', {dateStyle: 'medium', timeStyle: 'short'}).format(new Date(e.dateTime))"
        )
        assert await stops.inner_text() == moment
        await tab.go(KEYS)
        rows = tab.page.locator("tr:has-text('to be rotated')")
        told = sorted([await row.inner_text() for row in await rows.all()], key=lambda text: "Stops" in text)
        assert ["Replaces" in told[0], "Stops" in told[1], moment in told[1]] == [True] * 3
