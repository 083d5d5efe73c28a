"""The operator's way in a real browser: a second machine by its address, and traffic that spreads over both."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.console.browser import DESKTOP, PHONE, Console, Tab
from tests.fakes.upstream import FakeUpstream

pytestmark = pytest.mark.asyncio(loop_scope="session")
MODEL = "qwen2.5-coder:1.5b"
"""In the demo only `ma02` has it."""


async def _asked_of(console: Console) -> str:
    """The machine that answers one request."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    async with httpx.AsyncClient(base_url=console.process.url, timeout=30) as http:
        answer = await http.post(
            "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {console.process.key}"}
        )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["backend"]["machine_name"])


async def _add(tab: Tab, address: str, name: str) -> None:
    await tab.go("/admin/fleet")
    await tab.click("main a.button.primary")
    await tab.page.fill("#address", address)
    await tab.click("main button.primary")
    await tab.page.fill("#id", name)
    await tab.page.check("[name=take_0]")
    await tab.page.fill("[name=name_0]", MODEL)
    await tab.click("main button.primary")


@pytest.mark.parametrize(("width", "scripts"), [(DESKTOP, True), (PHONE, False)])
async def test_a_second_machine_is_added_and_takes_its_share(console: Console, width: int, scripts: bool) -> None:
    name = f"second-{width}"
    async with FakeUpstream() as second, console.tab("root", width=width, scripts=scripts) as tab:
        await _add(tab, second.base_url.removeprefix("http://").removesuffix("/v1"), name)
        assert tab.path == f"/admin/fleet/machines/{name}"
        assert MODEL in await tab.text()
        async with asyncio.timeout(10):
            while name not in {await _asked_of(console) for _ in range(2)}:
                pass
        assert {await _asked_of(console) for _ in range(4)} == {"ma02", name}
        assert second.requests
        await tab.click("main a.button.danger")
        await tab.click("main button.danger")
        async with asyncio.timeout(10):
            while name in {await _asked_of(console) for _ in range(2)}:
                pass
        assert tab.faults == []
        await tab.go(f"/admin/fleet/machines/{name}/remove")
        await tab.click("main button.danger")
        assert tab.path == "/admin/fleet"


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
async def test_all_that_a_machine_serves_is_chosen_at_once(console: Console, width: int) -> None:
    async with FakeUpstream(models=("one", "two", "three")) as server, console.tab("root", width=width) as tab:
        await tab.go("/admin/fleet/add")
        await tab.page.fill("#address", server.base_url.removeprefix("http://").removesuffix("/v1"))
        await tab.click("main button.primary")
        boxes, every = tab.page.locator("tbody input[type=checkbox]"), tab.page.locator("[data-check-all]")
        for wanted in (True, False):
            await every.click()
            assert {await box.is_checked() for box in await boxes.all()} == {wanted}
        assert await tab.severe_findings() == []
        assert await tab.all_faults() == []
