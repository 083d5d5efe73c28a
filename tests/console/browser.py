"""A real browser in front of a real gateway: Debian's Chromium through Playwright, and the demo installation.

Tests that use it run in the session's event loop: `pytestmark = pytest.mark.asyncio(loop_scope="session")`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response, async_playwright

from tests.console.demo import PASSWORD, answer_slowly, fill
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PHONE, DESKTOP = 390, 1440
Theme = Literal["light", "dark"]
_HEIGHTS = {PHONE: 844, DESKTOP: 900}
_SEVERE = frozenset({"serious", "critical"})
_WATCH = """
window.__faults = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.__faults.push(`policy: ${event.violatedDirective} ${event.blockedURI}`));
window.__shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.__shift += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


@dataclass(slots=True)
class Tab:
    """One page of a browser; `faults`: what its console, its scripts and the policy complained of."""

    page: Page
    base_url: str
    faults: list[str] = field(default_factory=list)
    status: int = 0
    policy: str = ""

    async def go(self, path: str) -> Response:
        response = await self.page.goto(self.base_url + path, wait_until="load")
        assert response is not None
        return response

    async def click(self, selector: str) -> None:
        """Something that leads to another page, or to this one anew."""
        async with self.page.expect_navigation(wait_until="load"):
            await self.page.click(selector)

    async def text(self, selector: str = "main") -> str:
        return await self.page.inner_text(selector)

    @property
    def path(self) -> str:
        return self.page.url.removeprefix(self.base_url)

    async def all_faults(self) -> list[str]:
        return [*self.faults, *await self.page.evaluate("window.__faults ?? []")]

    async def layout_shift(self) -> float:
        return float(await self.page.evaluate("window.__shift ?? 0"))

    async def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        return int(
            await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )

    async def severe_findings(self) -> list[str]:
        """What axe-core finds serious, each with the first element that it is about."""
        results = await Axe().run(self.page, options={"resultTypes": ["violations"]})  # half the time
        found: list[dict[str, Any]] = results.response["violations"]
        return [
            f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]} {one['nodes'][0].get('failureSummary', '')[:200]}"
            for one in found
            if one["impact"] in _SEVERE
        ]

    async def focused(self) -> str:
        """The element that has the focus, as `tag#id` or `tag.class` with its text."""
        return str(
            await self.page.evaluate(
                "(e => `${e.tagName.toLowerCase()}${e.id ? '#' + e.id : ''}|${e.textContent.trim().slice(0, 40)}`)(document.activeElement)"
            )
        )


@dataclass(slots=True)
class Console:
    """The demo installation, served."""

    process: GatewayProcess
    upstream: FakeUpstream
    browser: Browser
    _states: dict[str, Any] = field(default_factory=dict)

    @asynccontextmanager
    async def tab(
        self,
        reader: str = "",
        *,
        width: int = DESKTOP,
        theme: Theme = "light",
        language: str = "en",
        scripts: bool = True,
    ) -> AsyncIterator[Tab]:
        """A browser window of its own. `reader`: one of the demo's people, already signed in."""
        state = await self._signed_in(reader) if reader else None
        context = await self.browser.new_context(
            viewport={"width": width, "height": _HEIGHTS[width]},
            color_scheme=theme,
            locale=language,
            timezone_id="Europe/Madrid",
            storage_state=state,
            java_script_enabled=scripts,
            reduced_motion="reduce",
        )
        try:
            yield await self._watched(context)
        finally:
            await context.close()

    async def _watched(self, context: BrowserContext) -> Tab:
        await context.add_init_script(_WATCH)
        tab = Tab(await context.new_page(), self.process.url)

        def note(message: ConsoleMessage) -> None:
            # That an answer was a refusal is what some tests are about; browsers print it as an error.
            if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
                tab.faults.append(f"{message.type}: {message.text}")

        tab.page.on("console", note)
        tab.page.on("pageerror", lambda error: tab.faults.append(f"exception: {error}"))
        return tab

    async def _signed_in(self, reader: str) -> Any:
        if reader not in self._states:
            async with self.tab() as tab:
                await sign_in(tab, f"{reader}@example.org")
                self._states[reader] = await tab.page.context.storage_state()
        return self._states[reader]


async def sign_in(tab: Tab, email: str, password: str = PASSWORD) -> None:
    await tab.go("/sign-in")
    await tab.page.fill("#email", email)
    await tab.page.fill("#password", password)
    await tab.click("main button.primary")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(
            "no Chromium here: scripts/test installs Debian's when it may use apt-get, or set CHROMIUM to its path"
        )
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def console(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Console]:
    async with FakeUpstream() as upstream:
        answer_slowly(upstream)
        process = GatewayProcess(tmp_path_factory.mktemp("console"))
        await fill(await process.installation(), process.data_dir, upstream.base_url)
        await process.start()
        yield Console(process, upstream, chromium)
        await process.close()
