"""The first answer in a real browser: what the page says while it waits goes when there is something to read."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.console.browser import Console
from tests.fakes.behaviour import Behaviour

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_waiting_is_said_until_the_first_word_and_not_longer(console: Console) -> None:
    upstream = console.upstream
    upstream.script(Behaviour(tokens=5, reasoning_tokens=1, pieces=("Programs ",), pause_at=(1, 2, 3), flavour="vllm"))
    async with console.tab("root") as tab:
        await tab.go("/welcome/answer")
        await tab.click("main button.primary")
        note, answer = tab.page.locator("[data-note]"), tab.page.locator("[data-answer]")
        await upstream.wait_paused()
        await expect(note).to_have_text("Waiting for the first word…")
        await upstream.release()
        await expect(note).to_have_text("The model reasons before it answers…")
        await upstream.release()
        await expect(answer).to_contain_text("Programs")
        await expect(note).to_have_text("")  # while the rest is not made yet
        await upstream.release()
        await expect(note).to_contain_text("The first word came after")
        assert await tab.all_faults() == []
