"""A session that ends while a form is filled in, in a real browser: it says so, and comes back to the form as it was left."""

from __future__ import annotations

import pytest

from tests.console.browser import PHONE, Console, sign_in
from tests.console.demo import PASSWORD

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
