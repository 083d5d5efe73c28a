"""What scripts add to every page, in a real browser: copying, showing what is typed hidden, figures that keep up, hover values."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import expect

from tests.console.browser import Console, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROJECT = "/projects/assistants"
MODEL = f"{PROJECT}/models/granite3.3:8b"


@pytest.mark.parametrize("secure", [True, False])
async def test_code_is_copied(console: Console, secure: bool) -> None:
    """`secure` False: as on an address of plain HTTP, where there is no clipboard to write to."""
    async with console.tab("owner") as tab:
        await tab.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        if not secure:
            await tab.page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        await tab.go(MODEL)
        code = await tab.page.inner_text("#program-1")
        button = tab.page.locator("[data-copy=program-1]")
        await button.click()
        await expect(button).to_contain_text("Copied")
        await tab.go(f"{PROJECT}/models")
        await tab.page.focus("#search")
        await tab.page.keyboard.press("Control+V")
        assert (await tab.page.input_value("#search")).replace(" ", "")[:150] == "".join(code.split())[:150]
        assert tab.faults == []


async def test_a_password_can_be_looked_at_while_it_is_typed(console: Console) -> None:
    async with console.tab() as tab:
        await tab.go("/sign-in")
        await tab.page.fill("#password", "not a secret")
        eye = tab.page.get_by_role("button", name="Show: Password")
        for pressed, kind in (("true", "text"), ("false", "password")):
            await eye.click()
            assert await eye.get_attribute("aria-pressed") == pressed
            assert await tab.page.get_attribute("#password", "type") == kind
        assert await tab.page.input_value("#password") == "not a secret"
        await eye.click()
        await sign_in(tab, "owner@example.org")
        assert tab.path != "/sign-in"


async def test_figures_keep_up_with_the_traffic(console: Console) -> None:
    async def ask() -> None:
        body = {"model": "granite3.3:8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        assert (await console.process.post("/v1/chat/completions", body)).status == 200

    async with console.tab("root") as tab:
        await ask()
        await tab.go("/projects/default/overview")
        requests = tab.page.locator("dl.stats dd").first
        before = await requests.inner_text()
        await ask()
        await expect(requests).not_to_have_text(before, timeout=30_000)
        assert tab.faults == []


async def test_a_chart_says_its_values_where_one_points(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go(f"{PROJECT}/usage")
        drawing = tab.page.locator(".chart-drawing").first
        box = await drawing.bounding_box()
        assert box is not None
        async with asyncio.timeout(20):
            while not await tab.page.locator(".chart-tip:visible").count():
                await tab.page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
                await tab.page.mouse.move(box["x"] + box["width"] - 30, box["y"] + box["height"] / 2)
        assert any(c.isdigit() for c in await tab.page.locator(".chart-tip:visible").inner_text())
        assert tab.faults == []


@pytest.mark.parametrize(("scripts", "zone"), [(True, "Europe/Madrid"), (False, "UTC")])
async def test_times_of_rows_have_seconds_and_say_their_zone(console: Console, scripts: bool, zone: str) -> None:
    async with console.tab("root", scripts=scripts) as tab:
        for path in (f"{PROJECT}/usage/requests", f"{PROJECT}/billing", "/admin/audit"):
            await tab.go(path)
            told = await tab.text(".zones")
            assert told == f"Days and months are those of UTC. Times of rows are shown in the zone {zone}", path
            times = await tab.page.locator("tbody th time").all_inner_texts()
            assert times, path
            assert all(re.search(r"\d\d?:\d\d:\d\d", time) for time in times), (path, times[:3])
        await tab.go(f"{PROJECT}/usage")
        assert zone in await tab.text(".zones")
        await tab.go(f"{PROJECT}/usage/requests")
        await tab.click("tbody th a >> nth=0")
        assert re.search(r"\d\d?:\d\d:\d\d", await tab.text("dl.facts"))


async def test_a_chart_is_read_by_keyboard_and_as_a_table(console: Console) -> None:
    async with console.tab("owner") as tab:
        await tab.go(f"{PROJECT}/usage")
        drawing, tip = tab.page.locator(".chart-drawing").first, tab.page.locator(".chart-tip")
        await tab.page.focus(".segments a:last-child")
        await tab.page.keyboard.press("Tab")
        await expect(tip).to_be_visible()
        before = last = await tip.inner_text()
        for _ in range(31):  # the days of this month that are to come, and those without requests, have no total
            await tab.page.keyboard.press("ArrowLeft")
            before = await tip.inner_text()
            if ": " in before.splitlines()[0]:
                break
        assert before != last
        day, _, total = before.splitlines()[0].partition(": ")
        numbers = [int(line.rpartition(": ")[2].replace(",", "")) for line in before.splitlines()[1:]]
        assert int(total.replace(",", "")) == sum(numbers)
        await expect(tab.page.locator("main > [role=status]").last).to_contain_text(day)
        await tab.page.keyboard.press("Escape")
        await expect(tip).to_be_hidden()
        assert await drawing.evaluate("e => e === document.activeElement")
        await tab.page.click("details.more:has(table) > summary")
        row = tab.page.locator("details.more tbody tr", has_text=day)
        shown = await row.inner_text()
        assert all(f"{number:,}" in shown for number in numbers)
        assert await tab.severe_findings() == []
        assert await tab.all_faults() == []
