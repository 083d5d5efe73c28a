"""A page with a new key in a real browser: F5 and Back make no other key and show no page of the browser's own."""

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
