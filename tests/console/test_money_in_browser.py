"""Money as people type it, in a real browser and in each language: a question where it can be two amounts, and a look before it is made."""

from __future__ import annotations

import pytest

from tests.console.browser import PHONE, Console

pytestmark = pytest.mark.asyncio(loop_scope="session")
PROJECT = "/admin/projects/research"


@pytest.mark.parametrize(
    ("language", "doubtful", "sure", "shown"),
    [
        ("en", "1,000", "1000", "1,000.00"),
        ("es", "1.000", "1 000,00", "1.000,00"),
        ("fr", "1,000", "1 000", "1\u202f000,00"),
    ],
)
async def test_credit_is_asked_about_and_shown_before_it_is_made(
    console: Console, language: str, doubtful: str, sure: str, shown: str
) -> None:
    async with console.tab("root", width=PHONE, language=language) as tab:
        await tab.go(PROJECT)
        before = await tab.page.locator("tbody tr").count()
        await tab.page.fill("#amount", doubtful)
        await tab.click("form[action$=credit] .form-foot button")
        assert "1000" in await tab.text("#amount-error")
        assert await tab.page.input_value("#amount") == doubtful
        await tab.page.fill("#amount", sure)
        await tab.click("form[action$=credit] .form-foot button")
        assert "1000 EUR" in await tab.text()
        assert await tab.overflow_px() == 0
        await tab.go(PROJECT)
        assert await tab.page.locator("tbody tr").count() == before
        await tab.page.fill("#amount", sure)
        await tab.click("form[action$=credit] .form-foot button")
        await tab.click("main button.primary")
        assert await tab.page.locator("tbody tr").count() == before + 1
        assert shown in await tab.text("tbody tr:first-child")
        assert tab.faults == []


async def test_a_threshold_comes_back_as_the_language_writes_it(console: Console) -> None:
    async with console.tab("owner", language="es") as tab:
        await tab.go("/projects/research/billing")
        await tab.page.fill("#low_credit", "19 999,5")
        await tab.click("form.form button.primary, form.form .form-foot button")
        assert await tab.page.input_value("#low_credit") == "19999,50"
        await tab.click("form.form button.primary, form.form .form-foot button")
        assert await tab.page.input_value("#low_credit") == "19999,50"
