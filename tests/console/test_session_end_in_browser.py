"""A session that ends while a form is filled in, in a real browser: it says so, and comes back to the form as it was left."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from llmaas.clock import SystemClock
from tests.console.browser import PHONE, Console, sign_in
from tests.console.demo import PASSWORD, fill
from tests.fakes.oidc import CLIENT_ID, CLIENT_SECRET, FakeOidc
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")
FORM = "/projects/research/keys/new"


@pytest.mark.parametrize("scripts", [True, False])
async def test_what_was_typed_is_there_after_signing_in_again(console: Console, scripts: bool) -> None:
    async with console.tab(width=PHONE, scripts=scripts) as tab:
        await sign_in(tab, "owner@example.org")
        await tab.go(FORM)
        await tab.page.fill("#name", "written for ten minutes")
        await tab.page.select_option("#expires", "365")
        await tab.page.context.clear_cookies()
        await tab.click("main button.primary")
        assert "session had ended" in await tab.text()
        assert await tab.overflow_px() == 0
        await tab.page.fill("#email", "owner@example.org")
        await tab.page.fill("#password", PASSWORD)
        await tab.click("main button.primary")
        if not scripts:
            await tab.click("main button.primary")
        await tab.page.wait_for_selector("#name")
        assert tab.path == FORM
        assert "signed in again" in await tab.text()
        assert await tab.page.input_value("#name") == "written for ten minutes"
        assert await tab.page.input_value("#expires") == "365"
        await tab.click("main button.primary")
        assert await tab.page.is_visible("#secret")
        assert tab.faults == []


@pytest_asyncio.fixture(loop_scope="session")
async def provider() -> AsyncIterator[FakeOidc]:
    async with FakeOidc(SystemClock().now_ms() // 1000) as running:
        running.person |= {"email": "owner@example.org", "name": "Owner"}
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def with_provider(chromium: Browser, provider: FakeOidc, tmp_path: Path) -> AsyncIterator[Console]:
    async with FakeUpstream() as upstream:
        process = GatewayProcess(tmp_path)
        await fill(await process.installation(), process.data_dir, upstream.base_url)
        await process.start(
            {
                "LLMAAS_OIDC_ISSUER": provider.issuer,
                "LLMAAS_OIDC_CLIENT_ID": CLIENT_ID,
                "LLMAAS_OIDC_CLIENT_SECRET": CLIENT_SECRET,
                "LLMAAS_OIDC_EMAIL_DOMAINS": "example.org",
                "LLMAAS_PUBLIC_URL": process.url,
            }
        )
        yield Console(process, upstream, chromium)
        await process.close()


@pytest.mark.parametrize("refused_first", [False, True])
async def test_what_was_typed_goes_to_the_sign_in_provider_and_back(
    with_provider: Console, provider: FakeOidc, refused_first: bool
) -> None:
    provider.refusals = int(refused_first)
    async with with_provider.tab() as tab:
        await sign_in(tab, "owner@example.org")
        await tab.go(FORM)
        await tab.page.fill("#name", "ñ" * 100)
        await tab.page.select_option("#expires", "365")
        await tab.page.context.clear_cookies()
        await tab.click("main button.primary")
        await tab.page.click("a[data-open-id]")
        if refused_first:
            await tab.page.wait_for_selector(".notice.bad")
            await tab.page.click("a[data-open-id]")
        await tab.page.wait_for_selector("#name")
        assert tab.path == FORM
        assert "signed in again" in await tab.text()
        assert await tab.page.input_value("#name") == "ñ" * 100
        assert await tab.page.input_value("#expires") == "365"
        await tab.click("main button.primary")
        assert await tab.page.is_visible("#secret")
        assert await tab.page.evaluate("sessionStorage.getItem('llmaas-typed')") is None
        assert tab.faults == []


async def test_who_typed_nothing_comes_from_the_provider_to_the_page(
    with_provider: Console, provider: FakeOidc
) -> None:
    async with with_provider.tab() as tab:
        await tab.go(FORM)
        assert await tab.page.get_attribute("a[data-open-id]", "href") == f"/api/v1/sign-in/openid?next={FORM}"
        await tab.go(f"/sign-in/resume?next={FORM}")
        await tab.page.wait_for_selector("#email")
        assert tab.path == f"/sign-in?next={FORM}"
