"""A new operator's first day in a real browser: from the one-time password to traffic on two machines, by pages alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from tests.console.browser import Console, Tab, sign_in
from tests.console.demo import PASSWORD, answer_slowly
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")
MODEL = "granite"


async def test_from_the_first_password_to_traffic_on_two_machines(console: Console, tmp_path: Path) -> None:
    process = GatewayProcess(tmp_path)
    printed = await (await process.installation()).first_start()
    assert printed is not None
    await process.start()
    try:
        async with (
            FakeUpstream(models=(MODEL,)) as one,
            FakeUpstream(models=(MODEL,)) as two,
            Console(process, one, console.browser).tab() as tab,
        ):
            answer_slowly(one)
            answer_slowly(two)
            await sign_in(tab, printed.admin_email, printed.one_time_password)
            await _first_steps(tab, printed.one_time_password)
            await _add_machine(tab, one, "north")
            await _set_price(tab)
            key = await _make_key(tab)
            assert await _machine_of(process, key) == "north"
            await _chat(tab)
            await _see_usage(tab, requests="2")
            await _add_machine(tab, two, "south")
            async with asyncio.timeout(10):
                while {await _machine_of(process, key) for _ in range(2)} != {"north", "south"}:
                    pass
            await tab.go("/projects/default/usage/requests")
            listed = await tab.text()
            assert "north" in listed
            assert "south" in listed
            assert await tab.all_faults() == []
    finally:
        await process.close()


async def _first_steps(tab: Tab, password: str) -> None:
    await tab.page.fill("#current", password)
    await tab.page.fill("#password", PASSWORD)
    await tab.click("main button.primary")
    await tab.page.fill("#name", "Research lab")
    await tab.click("main button.primary")
    # There is no model yet, and the page leads to where machines are added.
    await tab.click("main .actions a.primary")
    assert tab.path == "/admin/fleet"


async def _add_machine(tab: Tab, upstream: FakeUpstream, name: str) -> None:
    await tab.go("/admin/fleet")
    await tab.click("main a.button.primary")
    await tab.page.fill("#address", upstream.base_url.removeprefix("http://").removesuffix("/v1"))
    await tab.click("main button.primary")
    await tab.page.fill("#id", name)
    await tab.page.check("[name=take_0]")
    await tab.click("main button.primary")
    assert tab.path == f"/admin/fleet/machines/{name}"
    assert MODEL in await tab.text()


async def _set_price(tab: Tab) -> None:
    await tab.go(f"/admin/fleet/edit-model/{MODEL}")
    await tab.page.fill("[name=price_output]", "1000")
    await tab.click("main .form-foot button.primary")
    assert tab.path == f"/admin/fleet/models/{MODEL}"


async def _make_key(tab: Tab) -> str:
    await tab.go("/projects/default/keys")
    await tab.click("main a.button.primary")
    await tab.page.fill("[name=name]", "My program")
    await tab.click("main .form-foot button.primary")
    key = str(await tab.page.locator("#secret").evaluate("e => e.value ?? e.textContent")).strip()
    assert key.startswith("llmaas_")
    return key


async def _machine_of(process: GatewayProcess, key: str) -> str:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    async with httpx.AsyncClient(base_url=process.url, timeout=30) as http:
        answer = await http.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["backend"]["machine_name"])


async def _chat(tab: Tab) -> None:
    await tab.go("/projects/default/playground")
    await tab.page.fill("#playground-text", "Hello!")
    await tab.page.press("#playground-text", "Enter")
    figures = tab.page.locator("[data-turn=assistant] [data-figures]")
    await expect(figures).to_be_visible(timeout=15_000)
    assert "EUR" in await figures.inner_text()


async def _see_usage(tab: Tab, requests: str) -> None:
    await tab.go("/projects/default/usage?measure=cost")
    row = tab.page.locator("tbody tr", has_text=MODEL)
    await expect(row).to_contain_text(requests)
    await expect(row).not_to_contain_text("0.00 EUR")
