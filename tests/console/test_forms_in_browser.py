"""Forms that are refused, in a real browser: what is wrong stands at the top, has the focus, and leads to its field."""

from __future__ import annotations

import pytest

from tests.console.browser import PHONE, Console, Tab

pytestmark = pytest.mark.asyncio(loop_scope="session")
TIER = "/admin/tiers/team"


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_long_form_says_at_the_top_what_is_wrong_below(console: Console, scripts: bool) -> None:
    async with console.tab("root", width=PHONE, scripts=scripts) as tab:
        await tab.go(TIER)
        await tab.page.fill("#monthly_cap", "a lot")
        await tab.page.fill("#tokens_per_minute", "2.5")
        await tab.click("main .form-foot button.primary")
        assert await tab.page.locator("#faults li").count() == 2
        assert await tab.page.locator("#faults:focus").count() == 1
        assert await tab.page.locator("#faults").is_visible()
        assert await tab.overflow_px() == 0
        await tab.page.click("#faults a[href='#monthly_cap']")
        assert await tab.page.locator("#monthly_cap").is_visible()
        assert tab.faults == []


async def test_a_conflict_leads_to_what_is_there_now(console: Console) -> None:
    async with console.tab("root") as tab:
        other = Tab(await tab.page.context.new_page(), tab.base_url)
        for one in (tab, other):
            await one.go(TIER)
        await other.page.fill("#requests_per_minute", "601")
        await other.click("main .form-foot button.primary")
        await tab.page.fill("#requests_per_minute", "777")
        await tab.click("main .form-foot button.primary")
        assert "Somebody else changed this" in await tab.text(":focus")
        async with tab.page.context.expect_page() as opened:
            await tab.page.click("main .notice a")
        page = await opened.value
        assert await page.input_value("#requests_per_minute") == "601"
        assert await tab.page.input_value("#requests_per_minute") == "777"
        await other.go(TIER)
        await other.page.fill("#requests_per_minute", "600")
        await other.click("main .form-foot button.primary")


@pytest.mark.parametrize("language", ["en", "es", "fr"])
async def test_days_in_the_wrong_order_stay_in_their_fields(console: Console, language: str) -> None:
    async with console.tab("owner", width=PHONE, language=language) as tab:
        await tab.go("/projects/assistants/usage?from=2026-11-01&to=2026-11-20")
        await tab.page.fill("#from", "2026-11-20")
        await tab.page.fill("#to", "2026-11-01")
        await tab.click("form.filters button.primary")
        assert [await tab.page.input_value(f"#{name}") for name in ("from", "to")] == ["2026-11-20", "2026-11-01"]
        assert await tab.page.locator("#from").is_visible()
        told = await tab.text(".flash")
        assert "2026-11-20" in told
        assert "2026-11-01" in told


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "miembro"), ("es", "No existe ese miembro"), ("fr", "Ce membre n’existe pas")],
)
async def test_a_refusal_is_said_in_the_readers_language(console: Console, language: str, said: str) -> None:
    async with console.tab("owner", language=language) as tab:
        await tab.go("/projects/assistants/members/user-nobody")
        told = await tab.text()
        assert (said in told) == (language != "en")
        assert "`" not in told
